"""Owns the values that Hypothesis makes up: what PostgreSQL's jsonb and a JSON parser agree on."""

from __future__ import annotations

from hypothesis import strategies as st

__all__ = ["logs", "objects", "texts", "values"]

texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)
"""No NUL and no lone surrogates."""

_numbers = st.integers(-(2**63), 2**63 - 1) | st.integers(-(10**6), 10**6).map(lambda n: n / 8)

values = st.recursive(
    st.none() | st.booleans() | _numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
objects = st.dictionaries(texts, values, max_size=3)
logs = st.lists(values, max_size=3)
