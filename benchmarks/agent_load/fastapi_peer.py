"""A model behind FastAPI, as people write it: a pydantic request with nested lists.

Runs in an environment of its own: ``PEER_MODEL=… uvicorn fastapi_peer:app``. ``PEER_KIND`` is
``def`` (in FastAPI's thread pool) or ``async`` (in the event loop); ``PEER_THREADS`` limits
onnxruntime, which takes all cores by default.
"""

import os

import numpy as np
import onnxruntime as ort
from fastapi import FastAPI
from pydantic import BaseModel


class PredictRequest(BaseModel):
    """A batch of pictures."""

    data: list[list[list[list[float]]]]


class PredictResponse(BaseModel):
    """Their logits."""

    logits: list[list[float]]


app = FastAPI()
options = ort.SessionOptions()
if "PEER_THREADS" in os.environ:
    options.intra_op_num_threads = int(os.environ["PEER_THREADS"])
session = ort.InferenceSession(os.environ["PEER_MODEL"], options)


def answer(request: PredictRequest) -> PredictResponse:
    (logits,) = session.run(None, {"image": np.array(request.data, dtype=np.float32)})
    return PredictResponse(logits=logits.tolist())


if os.environ.get("PEER_KIND") == "async":

    @app.post("/predict")
    async def predict(request: PredictRequest) -> PredictResponse:
        return answer(request)

else:

    @app.post("/predict")
    def predict(request: PredictRequest) -> PredictResponse:
        return answer(request)
