"""The life of every open request as a pure state machine: no bus, no clock, no event loop."""
