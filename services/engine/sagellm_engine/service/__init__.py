"""The engine on the bus: dispatches in, token frames and reports out."""
