"""Routes of the prompts themselves: what there is, and what comes and goes."""

from typing import Annotated

from fastapi import Depends, FastAPI, Query
from fastapi import Request as HTTPRequest
from starlette.datastructures import UploadFile

from softprompt.errors import BadArtefact, BadInput
from softprompt.runs.prompt import PromptCard
from softprompt.serving.http.context import Server
from softprompt.serving.http.middleware import may_change
from softprompt.serving.http.schema import Model, Models, Removed, StoredPrompt, StoredPrompts
from softprompt.serving.prompt_store import PromptStore, card_in_metadata
from softprompt.serving.store_folder import BASE, StoreEntry, check_name

PROMPT_CONTENT = {
    "multipart/form-data": {
        "schema": {
            "type": "object",
            "required": ["card", "tensors"],
            "properties": {
                "card": {"type": "string", "format": "binary", "description": "A run's prompt.json."},
                "tensors": {"type": "string", "format": "binary", "description": "A run's prompt.safetensors."},
            },
        }
    },
    "application/octet-stream": {
        "schema": {
            "type": "string",
            "format": "binary",
            "description": "prompt.safetensors whose metadata holds the text of prompt.json under 'card'.",
        }
    },
}


def add_model_routes(app: FastAPI, server: Server) -> None:
    @app.get("/v1/models", tags=["ask"])
    async def models() -> Models:
        """List every name that `model` can be."""
        names = await server.look_up(server.store.names)
        found = await server.look_up(lambda: [_model(server, name) for name in [BASE, *names]])
        return Models(data=[one for one in found if one is not None])

    @app.get("/v1/models/{name}", tags=["ask"])
    async def model(name: str) -> Model:
        """Look up a name that `model` can be."""
        entry = None if name == BASE else await server.look_up(lambda: server.store.entry(name))
        return Model(id=name, created=server.began if entry is None else entry.modified)


def add_prompt_routes(app: FastAPI, server: Server) -> None:
    @app.get("/v1/prompts", tags=["prompts"])
    async def prompts(
        search: Annotated[str, Query(max_length=100, description="Part of the name.")] = "",
        after: Annotated[str, Query(max_length=120, description="The last name of the page before.")] = "",
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
        cards: Annotated[bool, Query(description="With each prompt's card.")] = False,
    ) -> StoredPrompts:
        """List the prompts, a page at a time, by name."""

        def page() -> StoredPrompts:
            broken = server.store.broken()
            there = sorted([*server.store.names(), *broken])
            names = [name for name in there if search.lower() in name.lower()]
            rest = [name for name in names if name > after]
            data = [one for name in rest[:limit] if (one := _listed(server.store, name, cards, broken.get(name)))]
            return StoredPrompts(data=data, total=len(names), has_more=len(rest) > limit)

        return await server.look_up(page)

    @app.get("/v1/prompts/{name}", tags=["prompts"])
    async def prompt(
        name: str,
        words: Annotated[int, Query(ge=0, le=10, description="With the words of the vocabulary nearest each row.")] = 0,
    ) -> StoredPrompt:
        """Show a prompt's card: method, task, template, choices, scores."""

        def show() -> StoredPrompt:
            if not words:
                return _describe(*server.store.card(name))
            loaded = server.store.get(name)  # its card, too: of one version
            nearest = server.store.nearest(loaded, words)
            return _describe(loaded.entry, loaded.card).model_copy(update={"nearest": nearest})

        return await server.look_up(show)


def add_change_routes(app: FastAPI, server: Server) -> None:
    @app.put(
        "/v1/prompts/{name}", tags=["prompts"], dependencies=[Depends(may_change)],
        openapi_extra={"requestBody": {"required": True, "content": PROMPT_CONTENT}},
    )  # fmt: skip
    async def put(name: str, request: HTTPRequest) -> StoredPrompt:
        """Add a prompt, or replace the one of this name: requests in progress keep the one they began with."""
        check_name(name)
        card, tensors = await _read_upload(request, server.limits.prompt_body)

        def store() -> StoredPrompt:
            try:
                entry = server.store.put(name, card, tensors)
            except BadArtefact as error:
                raise BadInput(str(error)) from None
            return _describe(entry, PromptCard.model_validate_json(card))

        return await server.change_store(store)

    @app.delete("/v1/prompts/{name}", tags=["prompts"], dependencies=[Depends(may_change)])
    async def remove(name: str) -> Removed:
        """Stop serving a prompt; requests in progress end with it."""
        await server.change_store(lambda: server.store.remove(name))
        return Removed(name=name)


async def _read_upload(request: HTTPRequest, most: int) -> tuple[bytes, bytes]:
    """Read card and tensors of a prompt that a client sends. Raises BadInput."""
    if request.headers.get("content-type", "").startswith("multipart/form-data"):
        async with request.form(max_files=2, max_fields=2, max_part_size=most) as form:
            parts = [form.get(part) for part in ("card", "tensors")]
            found = [await part.read() if isinstance(part, UploadFile) else part for part in parts]
        card, tensors = (part.encode() if isinstance(part, str) else part for part in found)
        if not card or not tensors:
            raise BadInput("Send two parts: 'card', a run's prompt.json, and 'tensors', its prompt.safetensors.")
        return card, tensors
    tensors = await request.body()
    try:
        return card_in_metadata(tensors), tensors
    except BadInput as error:
        raise BadInput(
            f"{error} Send one, or a multipart form with the parts 'card' (prompt.json) and 'tensors' "
            "(prompt.safetensors)."
        ) from None


def _model(server: Server, name: str) -> Model | None:
    if name == BASE:
        return Model(id=name, created=server.began)
    try:
        return Model(id=name, created=server.store.entry(name).modified)
    except BadInput:  # removed since it was listed
        return None


def _describe(entry: StoreEntry, card: PromptCard | None = None, error: str | None = None) -> StoredPrompt:
    fields = card.model_dump() if card else None
    return StoredPrompt(name=entry.name, version=entry.version, modified=entry.modified, card=fields, error=error)


def _listed(store: PromptStore, name: str, with_card: bool, broken: str | None) -> StoredPrompt | None:
    """Describe a prompt of the list, with what is wrong with it; None for one that has gone since."""
    if broken is not None:
        return StoredPrompt(name=name, version=0, modified=0, error=broken)
    try:
        entry = store.entry(name)
        entry, card = store.card(name)
        return _describe(entry, card if with_card else None, store.refusal(card))
    except BadArtefact as error:
        return _describe(entry, error=str(error))
    except BadInput:
        return None
