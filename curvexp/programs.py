"""Compiled programs: which are kept, and when one is released.

XLA keeps what a program was compiled to for as long as JAX knows the function: about 425 memory maps for one `eigsh` on a CPU, of 65 530
that Linux gives a process, and every array that the function captured. So each program here is a jitted function of its own, for one
structure and shape of arguments. It is released when a function that it was compiled for is gone, and, the least recently used first,
when programs or memory maps become too many. A program that runs while it is released ends first: XLA holds it until then.

A program holds what its function read while it was traced. So each is kept with the state of its functions, as far as that is seen at no
cost to a function that has none: arrays, numbers, texts and functions in the cells of a closure, in the attributes of a function or a
callable object, and in those of a bound method's object. Where one of them is another one now, the program is made anew. Globals, what
lies in lists, dictionaries and other objects, what a function of jax.jit reads, and an array that was changed in place are not seen.
"""

import atexit
import collections
import functools
import gc
import math
import threading
import types
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

SHARE = 0.75  # of the memory maps that the kernel gives a process; the rest is for libraries, and for what is being compiled
FEWEST = 16  # programs that stay whatever the maps are: those of one training, which must not release each other
NEW_CLOSURES = 3  # of one definition and equal shapes, after which the cure is told


class Bounds(NamedTuple):
    """What is released beyond.

    Attributes:
        programs: most that are kept. maps: most memory maps of the process, from which on the older half of the programs is released;
            inf where the system has no such bound.
    """

    programs: int
    maps: float


def bounds(*, programs: int | None = None, maps: float | None = None) -> Bounds:
    """Sets the bounds that are given, from the next program on; those that held before.

    Raises:
        ValueError: a bound below 1.
    """
    for name, value in (("programs", programs), ("maps", maps)):
        if value is not None and not value >= 1:
            raise ValueError(f"{name}={value!r}: expected a number of at least 1.")
    before = _table.bounds
    _table.bounds = Bounds(before.programs if programs is None else programs, before.maps if maps is None else maps)
    return before


def count() -> int:
    """Number of programs that are kept."""
    return len(_table.entries)


def release() -> None:
    """Releases all programs: a function that is called again is compiled again. A warning of new functions may be given anew."""
    _table.entries.clear()
    _table.new.clear()
    _table.told = False
    gc.collect()  # what JAX holds of a program holds itself


class compiled:
    """`jax.jit` with a bounded number of programs, none of which keeps a function alive that it was called with.

    A function among the arguments (in a jax.tree_util.Partial) or the static ones is held weakly where it is equal to itself alone, such
    as a closure. What is equal by value, such as a frozen dataclass that can be called, is held: an equal one shares the program.

    Args:
        static: names of arguments that are no arrays, given by keyword. inline: as of jax.jit. donate: places of arguments whose memory
            the results may take; they are not to be used again.
        tells: warns once where the first argument is a function that is new in each call.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        static: tuple[str, ...] = (),
        inline: bool = False,
        donate: tuple[int, ...] = (),
        tells: bool = False,
    ) -> None:
        functools.update_wrapper(self, function)
        self.__name__ = function.__name__
        self.function, self.static, self.inline, self.tells = function, frozenset(static), inline, tells
        self.donate = donate

    def __call__(self, *args: Any, **static: Any) -> Any:
        """The function's results."""
        program, leaves = self._found(args, static)
        return program(*leaves)

    def program(self, *args: Any, **static: Any) -> Callable[..., Any]:
        """The program for such arguments, as a function of their arrays, in the order of `jax.tree.leaves`: for what is called in a row."""
        return self._found(args, static)[0]

    def _found(self, args: tuple[Any, ...], static: dict[str, Any]) -> tuple[Any, list[Any]]:
        """The program, and the arrays that it takes."""
        if static and not static.keys() <= self.static:
            raise TypeError(
                f"{self.__name__} got the keywords {sorted(static)}: expected some of {sorted(self.static)}."
            )
        weak: list[_Weak] = []
        stateful: list[Any] = []
        leaves, form = _flattened(args, weak, stateful)
        options, structure = jax.tree.flatten(static)
        options = [_weakly(option, weak) for option in options]
        key = (self, form, structure, tuple(options), tuple([_aval(leaf) for leaf in leaves]))
        state = _State(_state([*stateful, *static.values()]))

        def make() -> Any:
            if self.tells and args and _is_partial(args[0]):
                _tell(args[0].func, (self, structure, tuple(options), key[-1]))
            return self._made(form, structure, options, self._donated(args), state)

        return kept(key, make, weak, state), leaves

    def lower(self, *args: Any, **static: Any) -> Any:
        """The program as it is compiled, not run: as of jax.jit."""
        return jax.jit(self.function, static_argnames=tuple(self.static)).lower(*args, **static)

    def clear_cache(self) -> None:
        """Releases the programs of this function."""
        for key in self._keys():
            _table.entries.pop(key, None)

    def _cache_size(self) -> int:
        return len(self._keys())

    def _keys(self) -> list[Any]:
        return [key for key in list(_table.entries) if key[0] is self]

    def _donated(self, args: tuple[Any, ...]) -> list[int]:
        """Places of the donated arguments' arrays among those of all."""
        counts = [len(_flattened(argument, [], [])[0]) for argument in args]
        return [sum(counts[:place]) + leaf for place in self.donate for leaf in range(counts[place])]

    def _made(self, form: "_Form", structure: Any, options: list[Any], donated: list[int], state: "_State") -> Any:
        """The function of the leaves alone, jitted: no cache of JAX's then holds what the arguments are made of."""

        def call(*leaves: Any) -> Any:
            static = jax.tree.unflatten(structure, [_strongly(option) for option in options])
            args = _unflattened(form, iter(leaves))
            result = self.function(*args, **static)
            functions: list[Any] = []
            _flattened(args, [], functions)
            state.leaves_out(_state([*functions, *static.values()]))
            return result

        call.__name__ = call.__qualname__ = self.__name__
        return jax.jit(call, inline=self.inline, donate_argnums=donated)


def kept(key: Any, make: Callable[[], Any], weak: "Sequence[_Weak]" = (), state: Any = ()) -> Any:
    """The program of a key, made where it is not there, or was made of another state; what the bounds leave no room for is released first.

    Args:
        key: hashable. weak: functions in the key; when one is gone, so is the program. state: of these functions, see `_state`.
    """
    with _table.lock:
        if (found := _table.entries.pop(key, None)) is not None and found[2] == state:
            _table.entries[key] = found  # the last to be released
            return found[0]
    _make_room()
    made = make(), tuple(weak), state
    with _table.lock:
        found = _table.entries.setdefault(key, made)
        if found[2] != state:
            found = _table.entries[key] = made
        return found[0]


class _Table:
    """Programs by key, each with the functions that it depends on, the least recently used first."""

    def __init__(self) -> None:
        self.entries: dict[Any, tuple[Any, tuple[_Weak, ...], Any]] = {}
        self.new: collections.Counter[Any] = collections.Counter()  # programs of one definition, equal shapes
        self.told = False
        self.lock = (
            threading.RLock()
        )  # the rows of run_many are read by several threads, and a function may go at any moment
        self.bounds = Bounds(512, SHARE * _most_maps())


def _tell(function: Any, alike: Any) -> None:
    """Warns, once in a process, where one definition has been compiled several times for equal arguments."""
    code = getattr(function, "__code__", None)
    if _table.told or code is None:
        return
    if len(_table.new) > 1000:
        _table.new.clear()
    _table.new[code, alike] += 1
    if _table.new[code, alike] == NEW_CLOSURES:
        _table.told = True
        _table.new.clear()
        warnings.warn(
            f"{function.__name__} is compiled anew: it is a new function in each call, or holds other values, the {NEW_CLOSURES}rd of this "
            "definition. Define it once and pass arrays as arguments, jax.tree_util.Partial(function, *arrays), or an Operator, "
            "curvexp.hessian(loss, params, *arrays): then one program serves all of them.",
            RuntimeWarning,
            stacklevel=7,
        )


def _make_room() -> None:
    """Releases the older half of the programs where they, or the memory maps, are too many."""
    entries, most = _table.entries, _table.bounds
    full = len(entries) >= most.programs
    crowded = len(entries) > FEWEST and math.isfinite(most.maps) and _maps() > most.maps
    if full or crowded:
        for key in list(entries)[: (len(entries) + 1) // 2]:
            entries.pop(key, None)
        gc.collect()  # what JAX holds of a program holds itself


def _forget(gone: Any) -> None:
    for key, (_, weak, _) in list(_table.entries.items()):
        if any(one.ref() is None for one in weak):
            _table.entries.pop(key, None)


class _Weak:
    """A function in a key, which it does not keep alive."""

    __slots__ = ("hash", "ref")

    def __init__(self, function: Callable[..., Any]) -> None:
        make: Any = weakref.WeakMethod if isinstance(function, types.MethodType) else weakref.ref
        self.ref, self.hash = make(function, _forget), hash(function)

    def __hash__(self) -> int:
        return self.hash

    def __eq__(self, other: object) -> bool:
        if self is other or not isinstance(other, _Weak):
            return self is other
        function = self.ref()
        return function is not None and function == other.ref()


class _Form(NamedTuple):
    """What a tree is but for its arrays. structure: with each Partial as a leaf; partials: (position, function, form of its arguments)."""

    structure: Any
    partials: tuple[tuple[int, Any, Any], ...]


def _flattened(tree: Any, weak: list[_Weak], functions: list[Any]) -> tuple[list[Any], _Form]:
    """The arrays of a tree, and its form, which holds functions weakly; these are added to `weak`, all functions to `functions`."""
    leaves, structure = jax.tree.flatten(tree, is_leaf=_is_partial)
    found, partials = [], []
    for position, leaf in enumerate(leaves):
        if type(leaf) is jax.tree_util.Partial:
            boxed = getattr(leaf.func, "fun", None)  # JAX puts a functools.partial into a box
            function = boxed if isinstance(boxed, functools.partial) else leaf.func
            functions.append(function)
            inner, form = _flattened((leaf.args, leaf.keywords), weak, functions)
            partials.append((position, _weakly(function, weak), form))
            found += inner
        else:
            found.append(leaf)
    return found, _Form(structure, tuple(partials))


def _unflattened(form: _Form, leaves: Iterator[Any]) -> Any:
    partials = {position: (function, inner) for position, function, inner in form.partials}
    found = []
    for position in range(form.structure.num_leaves):
        if position in partials:
            function, inner = partials[position]
            args, keywords = _unflattened(inner, leaves)
            found.append(jax.tree_util.Partial(_strongly(function), *args, **keywords))
        else:
            found.append(next(leaves))
    return jax.tree.unflatten(form.structure, found)


def _weakly(value: Any, weak: list[_Weak]) -> Any:
    """A function that is equal to itself alone as `_Weak`, added to the list; other values as they are."""
    if callable(value) and (type(value).__eq__ is object.__eq__ or isinstance(value, types.MethodType)):
        try:
            weak.append(_Weak(value))
        except TypeError:  # there is no weak reference to it
            return value
        return weak[-1]
    return value


_NUMBERS = (bool, int, float, complex, str, bytes, np.generic)
_JITTED = type(jax.jit(lambda: None))  # what such a function read is kept by JAX, whatever is made anew here
_STATELESS = (types.BuiltinFunctionType, type, _JITTED)


def _state(functions: list[Any]) -> tuple[Any, ...]:
    """What functions would read of themselves if they were traced now: numbers by their value, arrays and functions by their identity.

    >>> import jax.numpy as jnp
    >>> def of(scale):
    ...     return lambda w: scale * w
    >>> _state([of(2.0)]), _state([jnp.sum])
    (((<class 'float'>, 2.0),), ())
    """
    found: list[Any] = []
    seen: set[int] = set()
    for function in functions:
        if callable(function):
            _add_state(function, found, seen)
    return tuple(found)


def _add_state(function: Any, found: list[Any], seen: set[int]) -> None:
    if isinstance(function, _STATELESS) or id(function) in seen:
        return
    seen.add(id(function))
    if isinstance(function, types.MethodType):
        _add_state(function.__func__, found, seen)
        parts = list(getattr(function.__self__, "__dict__", {}).values())
    elif isinstance(function, functools.partial):
        _add_state(function.func, found, seen)
        parts = [*function.args, *function.keywords.values()]
    else:
        parts = list(getattr(function, "__dict__", {}).values())
        for cell in getattr(function, "__closure__", None) or ():
            try:
                parts.append(cell.cell_contents)
            except ValueError:  # not yet filled
                parts.append(None)
    for part in parts:
        if isinstance(part, _NUMBERS):
            found.append((type(part), part))
        elif isinstance(part, jax.Array | np.ndarray):
            found.append(_Same(part))
        elif callable(part) and not isinstance(part, _STATELESS):
            found.append(_Same(part))
            _add_state(part, found, seen)


class _State:
    """The state that a program was traced in, but for what the function changed itself meanwhile, such as a count of its calls."""

    __slots__ = ("own", "parts")

    def __init__(self, parts: tuple[Any, ...]) -> None:
        self.parts, self.own = parts, frozenset[int]()

    def leaves_out(self, after: tuple[Any, ...]) -> None:
        """Leaves out what is another one after the trace."""
        if len(after) == len(self.parts):
            pairs = enumerate(zip(self.parts, after, strict=True))
            self.own |= {place for place, (before, now) in pairs if before != now}

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _State) or len(self.parts) != len(other.parts):
            return False
        if self.parts == other.parts:
            return True
        pairs = enumerate(zip(self.parts, other.parts, strict=True))
        own = self.own | other.own
        return all(place in own or mine == theirs for place, (mine, theirs) in pairs)

    __hash__ = None  # type: ignore[assignment]


class _Same:
    """An object by its identity, which is not kept alive: what is made later at its address is another one."""

    __slots__ = ("ref",)

    def __init__(self, value: Any) -> None:
        try:
            self.ref: Any = weakref.ref(value)  # the same one each time, while the object lives
        except TypeError:
            self.ref = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.ref is other.ref

    __hash__ = None  # type: ignore[assignment]


def _strongly(value: Any) -> Any:
    return value.ref() if isinstance(value, _Weak) else value


def _is_partial(node: Any) -> bool:
    return type(node) is jax.tree_util.Partial


def _aval(leaf: Any) -> Any:
    return (leaf.shape, leaf.dtype) if hasattr(leaf, "shape") else type(leaf)


def _maps() -> int:
    """Memory maps of this process."""
    with open("/proc/self/maps", "rb") as file:
        return file.read().count(b"\n")


def _most_maps() -> float:
    """Memory maps that the kernel gives a process; inf where nothing says it."""
    try:
        with open("/proc/sys/vm/max_map_count") as file:
            most = float(file.read())
        _maps()
    except (OSError, ValueError):
        return math.inf
    return most


_table = _Table()
atexit.register(_table.entries.clear)  # while this module is whole, which a function's end looks into
