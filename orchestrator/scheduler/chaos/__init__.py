"""Fault injection: a campaign on a cluster that is being taken apart, and the proof that nothing came of it."""
