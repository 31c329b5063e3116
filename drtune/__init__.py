"""Fine-tune pretrained vision models with DR-Tune and its relatives.

In the order that data flows: `params` reads params.yaml; `sources` fetches sets; `data` packs images and
yields seeded batches; `backbones` builds a timm encoder with a linear head; `banks` keeps pretrained
features; `methods` holds one folder a method (start at `methods/dr_tune/method.py`); `training` has the
contract of a method and the one loop; `evaluation` reports on the sealed test split. These move numbers,
and DVC watches them. `runs`, `studies`, `serving` and `cli` watch, and no number depends on them: a stage
is stale for none of their edits.

The library takes values and paths and returns values: it never reads params.yaml itself, never builds a
path and never prints. The scripts in `pipeline/` do that.
"""
