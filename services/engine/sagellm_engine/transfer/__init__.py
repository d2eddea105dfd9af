"""Keys and values from one engine to another: leases, and what carries the bytes."""
