"""The table of kernels: what its rows must be for threads and recorded programs to derive what they need from them."""

import pytest

from microgpt.kernels.table import KERNELS, TOKENS


@pytest.mark.parametrize("name", KERNELS)
def test_outputs_that_are_computed_apart_may_be_left_out(name):
    """Where some outputs are sums over tokens and others not, or several are sums, each can be left out."""
    outputs = KERNELS[name].outputs
    sums = [operand for operand in outputs if not operand.per_token]
    if sums and len(outputs) > 1:
        assert all(operand.optional for operand in outputs)


@pytest.mark.parametrize("name", KERNELS)
def test_a_part_of_a_sum_can_be_addressed(name):
    """Threads move pointers to their part of a sum: along columns, or along rows where there is a leading dimension."""
    row = KERNELS[name]
    for output in row.outputs:
        if row.split and not output.per_token:
            others = [operand for operand in row.outputs + row.inputs if operand is not output]
            assert row.strided or all(operand.rows != output.columns for operand in others)


def test_scratch_comes_last():
    """`accumulate` counts results, so no scratch stands before one."""
    for row in KERNELS.values():
        marks = [operand.scratch for operand in row.outputs]
        assert marks == sorted(marks)


def test_every_kernel_works_on_tokens():
    """Each kernel has an operand with a column for each token, from which its number of columns follows."""
    for row in KERNELS.values():
        assert any(operand.columns == TOKENS for operand in row.outputs + row.inputs)
