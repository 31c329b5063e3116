"""Whether a hub answers: a refusal is an answer, and so is one that this machine does not trust."""

import ssl
from urllib.error import HTTPError, URLError

import pytest

from drtune.base.hub import silence_of


@pytest.mark.parametrize("fault", [HTTPError("http://x", 404, "no", {}, None), URLError(ssl.SSLError("odd"))])
def test_an_answer_of_any_kind_is_no_silence(fault, monkeypatch):
    def refuse(*args, **kwargs):
        raise fault

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    assert silence_of("http://x") == ""


def test_no_answer_has_a_reason():
    assert "refused" in silence_of("http://127.0.0.1:9")
