"""What a soft prompt is, and how each paper makes one.

A method's module registers its entry when it is imported, and all of them are imported here, before anything else of
the package: the order of these lines is the order of METHODS. A new method is a file and a line here.
"""
# ruff: noqa: F401, I001

from softprompt.methods.prompts import free  # prompt_tuning
from softprompt.methods.offsets import position_low_rank  # dept
from softprompt.methods.prompts import superposition  # superpos, superpos_dept
from softprompt.methods.offsets import position_codebook  # accept
from softprompt.methods.offsets import token_network  # adept
from softprompt.methods.prompts import source_mixture  # attempt
from softprompt.methods.prompts import routed  # smop
from softprompt.methods.prompts import residual
from softprompt.methods.prompts import low_rank  # dpt
from softprompt.methods.prompts import random_projection  # ulpt
from softprompt.methods.prompts import multitask  # mpt
from softprompt.methods.prompts import encoder  # p_tuning
from softprompt.methods.prompts import spot
from softprompt.methods.baselines import peft  # peft:lora, peft:ia3, peft:prefix
from softprompt.methods.baselines import weights  # bitfit, full
