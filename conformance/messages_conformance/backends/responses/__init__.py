"""OpenAI Responses, without replies that the server stores."""
