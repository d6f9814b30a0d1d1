"""The live view of a campaign: a snapshot read from the store, rendered as text of an exact size."""
