"""LangChain's own standard tests of a chat model, with the unmodified ChatOpenAI at GATEWAY_URL."""

import os
from typing import Any

from langchain_openai import ChatOpenAI  # type: ignore[import-not-found]  # in an environment of its own
from langchain_tests.integration_tests import ChatModelIntegrationTests  # type: ignore[import-not-found]


class TestGateway(ChatModelIntegrationTests):  # type: ignore[misc]
    @property
    def chat_model_class(self) -> Any:
        return ChatOpenAI

    @property
    def chat_model_params(self) -> dict[str, Any]:
        url = os.environ["GATEWAY_URL"]
        return {
            "model": "openai/gpt-4o-mini",
            "base_url": url,
            "api_key": "any",
            "stream_usage": True,
            "max_retries": 0,
        }
