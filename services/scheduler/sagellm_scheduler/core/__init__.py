"""The scheduler's decisions as a plain state machine: events in, actions out; no clock, no bus, no event loop."""
