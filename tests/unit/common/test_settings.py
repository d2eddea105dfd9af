"""Settings: the environment is read once, secrets are masked, a wrong value stops the start."""

import pytest

from sagellm_common.settings import BusSettings, ServiceSettings, load_settings


def test_the_environment_is_read_with_the_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    """SAGELLM_ variables set the fields."""
    monkeypatch.setenv("SAGELLM_NATS_URL", "nats://example:1")
    monkeypatch.setenv("SAGELLM_DEPLOYMENT", "blue")
    settings = load_settings(ServiceSettings)
    assert settings.nats_url == "nats://example:1"
    assert settings.subjects.generate == "sagellm.blue.v1.generate"


def test_a_wrong_value_stops_the_start_with_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A wrong value ends the process with code 2 and names variable and remedy."""
    monkeypatch.setenv("SAGELLM_LOG_LEVEL", "loud")
    with pytest.raises(SystemExit) as caught:
        load_settings(ServiceSettings)
    assert caught.value.code == 2
    told = capsys.readouterr().err
    assert "SAGELLM_LOG_LEVEL" in told
    assert "Correct it" in told


def test_secrets_are_masked() -> None:
    """Neither repr nor the URL for messages shows a password."""
    settings = BusSettings(nats_url="nats://me:hush@host:4222", nats_password="hush2")  # type: ignore[arg-type]  # coerced
    assert "hush2" not in repr(settings)
    assert settings.safe_url == "nats://host:4222"
    assert settings.password == "hush2"
    several = BusSettings(nats_url="nats://me:hush@one:4222, nats://me:hush@two:4222")
    assert several.safe_url == "nats://one:4222,nats://two:4222"
