"""The planner: how many engines of which kind and role are wanted, from what arrives and what engines can do."""
