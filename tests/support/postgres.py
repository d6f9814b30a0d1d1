"""The PostgreSQL server that tests start for themselves."""

from orchestrator.scheduler.chaos.postgres import PostgresMissing, PostgresServer

__all__ = ["PostgresMissing", "PostgresServer"]
