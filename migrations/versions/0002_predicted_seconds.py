"""shards remember how long they are predicted to take."""

from alembic import op
import sqlalchemy as sa


revision = '0002'
down_revision = '0001'
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table('shards') as batch:
        batch.add_column(sa.Column('predicted_seconds', sa.Double(), server_default='0', nullable=False))


def downgrade() -> None:
    with op.batch_alter_table('shards') as batch:
        batch.drop_column('predicted_seconds')
