"""Subjects: one prefix a deployment, and names that cannot break out of their token."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sagellm_common.subjects import Subjects, encode_token


@given(st.text(min_size=1, max_size=60))
def test_any_name_becomes_one_token(name: str) -> None:
    """Whatever a name holds (dots, stars, blanks, newlines), it is one token without wildcards."""
    assert re.fullmatch(r"[A-Za-z0-9_-]+", encode_token(name))


def test_plain_names_stay_readable() -> None:
    """A name that is a token already is left as it is."""
    assert encode_token("engine-1_a") == "engine-1_a"
    assert encode_token("org/model.v1") != "org/model.v1"


@pytest.mark.parametrize("bad", ["*", ">", "a.b", "a b", "a\r\nPUB x 1"])
def test_ids_cannot_widen_a_subject(bad: str) -> None:
    """An id with wildcards or line breaks stays inside its token."""
    subject = Subjects("d").engine_dispatch(bad)
    assert subject.count(".") == 5
    assert not set(subject) & set("*> \r\n")


def test_deployments_do_not_overlap() -> None:
    """Two deployments on one server share no subject, bucket or stream."""
    one, two = Subjects("one"), Subjects("two")
    assert one.generate != two.generate
    assert one.bucket("engines") != two.bucket("engines")
    assert one.stream("decisions") != two.stream("decisions")
