"""Everything that runs beside a GPU: engines, the shard runner and the worker actor. Never sees the database."""
