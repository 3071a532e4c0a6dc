"""Ask a running server with the clients that people have.

    softprompt serve --backbone smollm2-135m --prompts runs/demo &
    pip install openai litellm langchain-openai
    python examples/clients.py http://localhost:8000 superpos

The second argument is a prompt's name with choices.
"""

import sys

import litellm
from langchain_openai import ChatOpenAI
from openai import OpenAI
from pydantic import BaseModel

address, model = sys.argv[1].rstrip("/"), sys.argv[2]
base, text = f"{address}/v1", "I was charged twice"
messages = [{"role": "user", "content": text}]


class Answer(BaseModel):
    """What the backbone is to say, as JSON."""

    team: str
    urgent: bool


client = OpenAI(base_url=base, api_key="none")
print("openai, completions:", client.completions.create(model=model, prompt=text, max_tokens=4).choices[0].text)
chat = client.chat.completions.create(
    model=model, messages=messages, extra_body={"response_format": {"type": "choice"}}
)
print("openai, one of the prompt's choices:", chat.choices[0].message.content)

given = {"model": f"openai/{model}", "api_base": base, "api_key": "none", "messages": messages, "max_tokens": 4}
print("litellm, chat:", litellm.completion(**given).choices[0].message.content)
pieces = litellm.completion(**given, stream=True)
print("litellm, streamed:", "".join(piece.choices[0].delta.content or "" for piece in pieces))

chain = ChatOpenAI(model=model, base_url=base, api_key="none", temperature=0, max_tokens=4)
print("langchain, chat:", chain.invoke(text).content)
print("langchain, streamed:", "".join(piece.content for piece in chain.stream(text)))
backbone = ChatOpenAI(model="base", base_url=base, api_key="none", max_tokens=60)
print("langchain, JSON:", backbone.with_structured_output(Answer, method="json_schema").invoke(f"As JSON: {text}"))
