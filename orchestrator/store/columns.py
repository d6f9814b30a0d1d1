"""The kinds of columns that the tables are made of, and the names of their constraints."""

from __future__ import annotations

from enum import StrEnum

import sqlalchemy as sa
from sqlalchemy import Column, ForeignKey

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

Id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def enum_type(kind: type[StrEnum], name: str) -> sa.Enum:
    values = [str(member) for member in kind]
    return sa.Enum(
        kind, name=name, native_enum=False, create_constraint=True, length=24, values_callable=lambda _: values
    )


def count_column(name: str) -> Column[int]:
    return Column(name, sa.BigInteger, nullable=False, server_default="0", default=0)


def sum_column(name: str) -> Column[float]:
    return Column(name, sa.Double, nullable=False, server_default="0", default=0.0)


def text_column(name: str) -> Column[str]:
    return Column(name, sa.Text, nullable=False, server_default="", default="")


def campaign_column() -> Column[int]:
    return Column("campaign_id", Id, ForeignKey("campaigns.id"), nullable=False)
