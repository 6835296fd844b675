"""The signatures of Python functions that take settings, made from the table of the settings."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, get_args, get_origin, overload

from .settings import Given, described, suggestion

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class accepts(Generic[P]):  # noqa: N801 - a decorator
    """@accepts(Sampling) lets a function or method of one Given be called with the arguments of Sampling.

    Its signature, also for type checkers, has the settings' names, types and defaults.  SETTINGS in its docstring
    becomes their descriptions.
    """

    def __init__(self, settings: Callable[P, object]) -> None:
        signature, types = inspect.signature(settings), type_arguments(settings)
        parameters = signature.parameters.values()
        known = [each.replace(annotation=types.get(each.annotation, each.annotation)) for each in parameters]
        self.signature = signature.replace(parameters=known)
        self.described = described(settings)

    @overload
    def __call__(self, function: Callable[[Given], R]) -> Callable[P, R]: ...
    @overload
    def __call__(self, function: Callable[[T, Given], R]) -> Callable[Concatenate[T, P], R]: ...
    def __call__(self, function: Callable[..., R]) -> Callable[..., R]:
        own = inspect.signature(function)
        *before, _ = own.parameters.values()  # `self`, if it is a method
        n = len(before)

        @functools.wraps(function)
        def accepting(*args: Any, **kwargs: Any) -> R:
            return function(*args[:n], self._given(function.__name__, args[n:], kwargs))

        signature = own.replace(parameters=[*before, *self.signature.parameters.values()])
        accepting.__signature__ = signature  # type: ignore[attr-defined]
        accepting.__doc__ = function.__doc__ and inspect.cleandoc(function.__doc__).replace("SETTINGS", self.described)
        return accepting

    def _given(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Given:
        for key in kwargs:
            if key not in self.signature.parameters:
                raise TypeError(f"{name}: unknown setting {key!r}{suggestion(key, self.signature.parameters)}")
        most = sum(
            parameter.kind is parameter.POSITIONAL_OR_KEYWORD for parameter in self.signature.parameters.values()
        )
        if len(args) > most:
            raise TypeError(
                f"{name}: positional arguments: expected at most {most}, found {len(args)}; name the others"
            )
        try:
            return self.signature.bind(*args, **kwargs).arguments
        except TypeError as error:
            raise TypeError(f"{name}: {error}") from None


def type_arguments(settings: object) -> dict[object, object]:
    """{type variable: type} of a table of settings derived from a generic one."""
    bases = [base for cls in getattr(settings, "__mro__", ()) for base in getattr(cls, "__orig_bases__", ())]
    pairs = [zip(getattr(get_origin(base), "__parameters__", ()), get_args(base)) for base in bases]
    return {variable: argument for each in pairs for variable, argument in each}
