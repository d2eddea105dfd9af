"""The edge of the scheduler: messages become events of its core, the core's actions become messages."""
