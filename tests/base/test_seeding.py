import torch

from drtune.base.seeding import derive, generator


def test_derive_is_fixed_and_tells_its_parts_apart():
    assert derive(0, "augment", 3, "a.png") == derive(0, "augment", 3, "a.png")
    seeds = {derive(s, "x", e, i) for s in range(3) for e in range(5) for i in range(7)}
    assert len(seeds) == 105
    assert derive(1, 23) != derive(12, 3)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_derive_does_not_depend_on_the_process():
    # a fixed value: Python's own hash() would differ from one process to the next
    assert derive(0, "augment", 1, "a") == 6163014396506525426


def test_generator_repeats_itself():
    a, b = generator(1, "head"), generator(1, "head")
    assert torch.equal(torch.rand(4, generator=a), torch.rand(4, generator=b))
    assert not torch.equal(torch.rand(4, generator=generator(2, "head")), torch.rand(4, generator=b))
