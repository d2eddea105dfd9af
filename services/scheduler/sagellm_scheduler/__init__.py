"""The scheduler: admits, orders and places requests; never sees a body."""
