def embed(run, data):
    raise NotImplementedError
