"""Optimizers: an optax transformation, and beside it the theory that goes with it.

The numbers (lr, momentum, b1, ...) live as arrays in the optax state, and the transformation
itself is one object for each kind of optimizer. So one compiled program serves every learning rate, and can be vmapped over them.
"""

from curvexp.optim.any_optax import as_optimizer as as_optimizer
from curvexp.optim.any_optax import check_step as check_step
from curvexp.optim.any_optax import from_optax as from_optax
from curvexp.optim.base import Hyper as Hyper
from curvexp.optim.base import Number as Number
from curvexp.optim.base import Optimizer as Optimizer
from curvexp.optim.base import theory_of as theory_of
from curvexp.optim.divisor import preconditioner as preconditioner
from curvexp.optim.injected import Schedule as Schedule
from curvexp.optim.ours import LARGEST_LR as LARGEST_LR
from curvexp.optim.ours import adagrad as adagrad
from curvexp.optim.ours import adam as adam
from curvexp.optim.ours import momentum as momentum
from curvexp.optim.ours import nesterov as nesterov
from curvexp.optim.ours import rmsprop as rmsprop
from curvexp.optim.ours import sgd as sgd
from curvexp.optim.state import momentum_of as momentum_of
from curvexp.optim.tune import FALLBACK_MOMENTUM as FALLBACK_MOMENTUM
from curvexp.optim.tune import resolve as resolve
