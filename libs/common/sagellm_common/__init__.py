"""What every service shares: contracts, codec, subjects, bus, errors, settings, telemetry."""
