"""Fine-tune pretrained vision models with DR-Tune and its relatives.

In the order that data flows: `config` reads params.yaml; `data` packs images and yields seeded batches;
`backbones` builds a timm encoder with a linear head; `banks` keeps pretrained features; `methods` holds one
fine-tuning method a file (start at `methods/contract.py`, then `methods/dr_tune.py`); `training` runs the
loop; `evaluation` and `plots` report on the sealed test split; `tracking` writes every run down.

The library takes values and paths and returns values: it never reads params.yaml itself, never builds a
path and never prints. The scripts in `pipeline/` do that.
"""
