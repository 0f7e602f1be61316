def statements(seed):
    yield from ()
