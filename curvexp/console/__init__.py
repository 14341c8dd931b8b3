"""What a person sees in a terminal: progress, results and refusals."""

from curvexp.console.display import QUIET_SECONDS as QUIET_SECONDS
from curvexp.console.display import Bar as Bar
from curvexp.console.display import Display as Display
from curvexp.console.formats import condition_number as condition_number
from curvexp.console.formats import figures as figures
from curvexp.console.formats import is_number as is_number
from curvexp.console.formats import number as number
from curvexp.console.formats import ratio as ratio
from curvexp.console.streams import Stream as Stream
from curvexp.console.streams import any_stream as any_stream
from curvexp.console.streams import encodable as encodable
from curvexp.console.streams import err as err
from curvexp.console.streams import note as note
from curvexp.console.streams import nowhere as nowhere
from curvexp.console.streams import out as out
from curvexp.console.streams import printable as printable
from curvexp.console.streams import refuse as refuse
from curvexp.console.streams import visible as visible
from curvexp.console.summary import line as line
from curvexp.console.summary import result as result
