"""Bodies of HTTP requests and responses, in OpenAI's shapes; the OpenAPI document is made of these."""
