"""instructor against a gateway: python structured.py BASE_URL. Prints one JSON object: what came whole, and in parts."""

import json
import sys

import instructor  # type: ignore[import-not-found]  # in an environment of its own
import openai
from pydantic import BaseModel


class Dish(BaseModel):
    """What is asked for."""

    name: str
    servings: int


found = {}
for mode in (instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA):
    client = instructor.from_openai(openai.OpenAI(base_url=sys.argv[1], api_key="any"), mode=mode)
    question = {
        "model": "openai/gpt-4o-mini",
        "messages": [{"role": "user", "content": "a dish"}],
        "response_model": Dish,
    }
    whole = client.chat.completions.create(**question)
    *_, last = client.chat.completions.create_partial(**question)
    found[mode.name] = [whole.model_dump(), last.model_dump()]
print(json.dumps(found))
