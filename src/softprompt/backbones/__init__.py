"""Load frozen models and answer examples with them (pose, loss, answer, rank); they know no method."""

from softprompt.backbones.backbone import Backbone
from softprompt.backbones.batch import Batch, Losses
from softprompt.backbones.batching import passes
from softprompt.backbones.bundled import EMBEDDED
from softprompt.backbones.causal import Causal
from softprompt.backbones.families import Family, register_family
from softprompt.backbones.load import load_backbone
from softprompt.backbones.masked import Masked
from softprompt.backbones.placement import PLACEMENTS, Placement, check_placement
from softprompt.backbones.seq2seq import Seq2Seq

__all__ = [
    "EMBEDDED",
    "PLACEMENTS",
    "Backbone",
    "Batch",
    "Causal",
    "Family",
    "Losses",
    "Masked",
    "Placement",
    "Seq2Seq",
    "check_placement",
    "load_backbone",
    "passes",
    "register_family",
]
