from hypothesis import settings

# A shared, loaded machine says nothing about the code: examples are judged by their outcome alone.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")
