"""Which URLs exist? HTTP only: parse, call, answer. Starlette is imported here and nowhere below."""
