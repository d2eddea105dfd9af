"""Leadership by a lease in the bucket `leader`: one scheduler acts, the others stand by."""
