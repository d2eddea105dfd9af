"""The performance model: step times learnt from reports, and what they mean for a request."""
