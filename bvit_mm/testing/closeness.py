# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""How near two computations of the same numbers must be, from the arithmetic.

A sum of floating-point numbers depends on the order of its terms, and the order on the processor,
on the number of threads and on the shapes. So no test compares with what one machine came to:

- Numbers that are only copied are equal bit for bit, and so is what the same kernels compute on
  the same shapes.
- Else two computations differ by roundings, each of at most eps of what is rounded. A difference
  is measured against the largest of the values that are compared: a value near 0 that is left of
  large terms has their rounding, not its own.
- Where it can be, the same is asked in float64 too. There 1e-12 leaves rounding two orders of
  magnitude, and would not let a formula pass that is wrong by what float32 cannot see.
"""

import torch

# Sums that a value passes in a block, one after another: a norm, queries and keys, their products,
# the weighed values, the projection, and the two layers of the MLP; and the blocks of most tests'
# networks, at most.
SUMS, BLOCKS = 7, 12
FLOAT64 = 1e-12


def tolerance(dtype: torch.dtype, passes: float = 1) -> float:
    """The largest difference that rounding explains, as a share of the largest value.

    In float32 one eps for each sum on the way, 84 in 12 blocks: 1e-5.

    Args:
        dtype: In which both were computed.
        passes: How often a value goes the way through twelve blocks: 2 through 24 of them, 3 for
            gradients (there, back for the activations, and back for the weights).
    """
    if dtype == torch.float64:
        return FLOAT64 * passes
    return SUMS * BLOCKS * torch.finfo(dtype).eps * passes


def tolerance_of_training(steps: int) -> float:
    """The same for weights in float32 after some steps of SGD, each of which rounds them once.

    Gradients are rounded too, but move weights by a small share of their size. It is a share of
    the largest weight of all: some, such as key biases, have no gradient but rounding.
    """
    return steps * torch.finfo(torch.float32).eps


def distance(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The largest difference over the largest value; infinite if there is only one that is 0."""
    difference, size = (x.detach().abs().max().item() for x in (ours - theirs, theirs))
    return difference / size if size else float('inf') if difference else 0.0


def assert_near(ours: torch.Tensor, theirs: torch.Tensor, passes: float = 1) -> None:
    """Asserts that two tensors of a shape and kind differ by no more than rounding."""
    assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
    found, allowed = distance(ours, theirs), tolerance(theirs.dtype, passes)
    assert found <= allowed, f'differ by {found:.2g} of the largest value; {allowed:.2g} allowed'
