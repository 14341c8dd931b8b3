"""The ledger of a run: at each reading, why it is slow, or about to blow up, in figures beside what theory gives for them."""

from curvexp.probe.ledger.account import enter as enter
from curvexp.probe.ledger.batches import BATCHES as BATCHES
from curvexp.probe.ledger.batches import FEWEST_BATCHES as FEWEST_BATCHES
from curvexp.probe.ledger.batches import draw_batches as draw_batches
from curvexp.probe.ledger.batches import noise as noise
from curvexp.probe.ledger.directions import momentum as momentum
from curvexp.probe.ledger.past import Now as Now
from curvexp.probe.ledger.past import Past as Past
