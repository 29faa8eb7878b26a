"""A worker as the documentation of Celery, the OpenAI SDK, redis-py and SQLAlchemy teaches it, with nothing added."""
