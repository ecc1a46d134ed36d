"""Alembic's environment: `omniad_ros.living.store` hands over the connection on which migrations run."""

from alembic import context

from omniad_ros.living.schema import Base

context.configure(
    connection=context.config.attributes["connection"], target_metadata=Base.metadata, render_as_batch=True
)
with context.begin_transaction():
    context.run_migrations()
