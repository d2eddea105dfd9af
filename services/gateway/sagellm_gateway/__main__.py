"""`python -m sagellm_gateway`: one gateway process."""

from sagellm_common.runner import run
from sagellm_common.settings import load_settings
from sagellm_gateway.serving import serve
from sagellm_gateway.settings import GatewaySettings


def main() -> None:
    """Run until SIGTERM or SIGINT; then drain and end."""
    settings = load_settings(GatewaySettings)
    run("gateway", settings.gateway_id, settings, lambda stop: serve(settings, stop))


if __name__ == "__main__":
    main()
