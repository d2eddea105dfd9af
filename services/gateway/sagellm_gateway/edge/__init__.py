"""The gateway on the bus: messages become events of the core, its actions become messages."""
