"""A loss with all its data, as a function of the parameters."""

from typing import Any, NamedTuple


class Objective(NamedTuple):
    """A loss with all its data, as a function of the parameters: a pytree, so that under jit the data stays an argument.

    Attributes:
        loss: a jax.tree_util.Partial, (params, data) -> scalar. data: pytree.
    """

    loss: Any
    data: Any

    def __call__(self, params: Any) -> Any:
        """The loss at params."""
        return self.loss(params, self.data)
