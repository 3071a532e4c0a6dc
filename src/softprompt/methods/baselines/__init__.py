"""Baselines: what changes the network itself, trained by the same loop on the same batches as a soft prompt.

`network.py` says what all of them are, `peft.py` has those that HF PEFT implements, `weights.py` those that train the
network's own tensors.
"""
