"""The public API on NATS, the gateway alone between played peers."""

import json

import msgpack

from sagellm_common.bus import Bus
from sagellm_common.contracts.generate import CancelReply, CancelRequest
from support.gateway_peers import GATEWAY_ID, JSON_HEADER, MODEL, Caller, GatewayPeers, as_json
from support.processes import ServiceProcess
from support.wait import eventually


async def test_a_request_streams_back_in_numbered_replies(
    bus: Bus, gateway: ServiceProcess, peers: GatewayPeers
) -> None:
    """A prompt goes to the assigned engine as tokens, its tokens come back as text, then usage, ack and events."""
    caller = await Caller(bus).ask_for(return_token_ids=True)
    engine = peers.engines["e1"]
    dispatch = await engine.dispatched()
    assert dispatch.prompt_token_ids == peers.tokenizer.encode("the quick brown").ids
    assert (dispatch.epoch, dispatch.incarnation, dispatch.gateway_id) == (0, engine.incarnation, GATEWAY_ID)
    assert (dispatch.sampling.max_tokens, dispatch.sampling.seed) == (8, 1)
    tokens = peers.tokens(" fox jumps")
    await engine.send(dispatch, 0, tokens[:1], cached_tokens=2)
    await engine.send(dispatch, 1, tokens[1:], finish="stop")
    final = await caller.final()
    assert caller.text == " fox jumps"
    assert [token for reply in caller.replies for token in reply.token_ids or []] == tokens
    assert [r.finish_reason for r in caller.replies if r.finish_reason] == ["stop"]
    assert final.usage is not None
    assert final.usage.model_dump() == {
        "prompt_tokens": len(dispatch.prompt_token_ids),
        "completion_tokens": len(tokens),
        "cached_tokens": 2,
    }
    assert {reply.request_id for reply in caller.replies} == {dispatch.request_id}
    await eventually(lambda: (dispatch.request_id, 0) in engine.acks, what="the ack")
    ended = await peers.event("finished")
    assert (ended.completion_tokens, ended.cached_tokens) == (len(tokens), 2)
    assert ended.ttft_ms is not None
    assert ended.e2e_ms is not None
    assert [e.phase for e in peers.events] == ["accepted", "first_token", "finished"]


async def test_a_person_with_a_bare_client_publishes_json(
    bus: Bus, gateway: ServiceProcess, peers: GatewayPeers
) -> None:
    """JSON without any header is understood and answered in JSON, with a header too; unknown fields are ignored."""
    for number, headers in enumerate((None, JSON_HEADER), start=1):
        caller = await Caller(bus).ask(as_json(unknown=1, sampling={"max_tokens": 4}), headers)
        dispatch = await peers.engines["e1"].dispatched(number)
        await peers.engines["e1"].send(dispatch, 0, peers.tokens(" fox"), finish="length")
        assert (await caller.final()).usage is not None
        assert json.loads(caller.messages[-1].data)["final"] is True
        assert caller.text == " fox"


async def test_a_chat_is_rendered_by_the_models_template(
    bus: Bus, gateway: ServiceProcess, peers: GatewayPeers
) -> None:
    """Messages become the template's text, without a second BOS token."""
    await Caller(bus).ask_for(prompt=None, messages=[{"role": "user", "content": "hello"}])
    dispatch = await peers.engines["e1"].dispatched()
    text = peers.tokenizer.decode(dispatch.prompt_token_ids, skip_special_tokens=False)
    assert text == "<s><|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"


async def test_a_stop_string_ends_the_stream_and_the_engines_work(
    bus: Bus, gateway: ServiceProcess, peers: GatewayPeers
) -> None:
    """The text ends before the stop string, the finish reason is stop, and the engine is cancelled."""
    caller = await Caller(bus).ask_for(stop=["jumps"])
    engine = peers.engines["e1"]
    dispatch = await engine.dispatched()
    await engine.send(dispatch, 0, peers.tokens(" the fox jumps over the lazy"))
    final = await caller.final()
    assert caller.text == " the fox "
    assert [r.finish_reason for r in caller.replies if r.finish_reason] == ["stop"]
    assert final.error is None
    await eventually(lambda: [c.request_id for c in engine.cancels] == [dispatch.request_id], what="the cancel")


async def test_each_of_several_choices_is_streamed(bus: Bus, gateway: ServiceProcess, peers: GatewayPeers) -> None:
    """With n = 2 each choice has its own text and end, and usage counts both."""
    caller = await Caller(bus).ask_for(sampling={"n": 2, "max_tokens": 4, "logprobs": 1})
    engine = peers.engines["e1"]
    dispatch = await engine.dispatched()
    for choice, text in enumerate((" fox", " dog")):
        tokens = peers.tokens(text)
        logprobs = [[-0.5, [[token, -0.5]]] for token in tokens]
        await engine.send(dispatch, 0, tokens, choice=choice, logprobs=logprobs, finish="stop")
    final = await caller.final()
    texts = ["".join(r.text for r in caller.replies if r.choice == choice) for choice in range(2)]
    assert texts == [" fox", " dog"]
    assert final.usage is not None
    assert final.usage.completion_tokens == len(peers.tokens(" fox")) + len(peers.tokens(" dog"))
    logprobs = [entry for reply in caller.replies for entry in reply.logprobs or []]
    assert {entry.logprob for entry in logprobs} == {-0.5}
    assert logprobs[0].top[0].token == logprobs[0].token


async def test_a_tool_call_is_parsed(bus: Bus, gateway: ServiceProcess, peers: GatewayPeers) -> None:
    """With tools given, a call in the text becomes a tool call and the finish reason says so."""
    tools = [{"type": "function", "function": {"name": "weather", "parameters": {}}}]
    caller = await Caller(bus).ask_for(prompt=None, messages=[{"role": "user", "content": "hi"}], tools=tools)
    engine = peers.engines["e1"]
    dispatch = await engine.dispatched()
    text = '<tool_call>{"name": "weather", "arguments": {"city": "Lyon"}}</tool_call>'
    await engine.send(dispatch, 0, peers.tokens(text), finish="stop")
    await caller.final()
    calls = [call for reply in caller.replies for call in reply.tool_calls or []]
    assert [(call.name, json.loads(call.arguments)) for call in calls] == [("weather", {"city": "Lyon"})]
    assert caller.text == ""
    assert [r.finish_reason for r in caller.replies if r.finish_reason] == ["tool_calls"]


async def test_two_requests_with_one_client_id_are_two_requests(
    bus: Bus, gateway: ServiceProcess, peers: GatewayPeers
) -> None:
    """A client's own id is an alias for its records only: both are served, each under an id of the gateway's."""
    callers = [await Caller(bus).ask_for(client_request_id="mine") for _ in range(2)]
    engine = peers.engines["e1"]
    for number in (1, 2):
        await engine.send(await engine.dispatched(number), 0, peers.tokens(" fox"), finish="length")
    ids = {(await caller.final()).request_id for caller in callers}
    assert len(ids) == 2
    assert "mine" not in ids


async def test_a_caller_that_vanishes_is_noticed_within_two_seconds(
    bus: Bus, gateway: ServiceProcess, peers: GatewayPeers
) -> None:
    """A caller that stops listening has its request cancelled at the engine, even while no token comes."""
    caller = await Caller(bus).ask_for()
    engine = peers.engines["e1"]
    dispatch = await engine.dispatched()
    await engine.send(dispatch, 0, peers.tokens(" fox")[:1])
    await eventually(lambda: caller.text != "", what="the first text")
    await caller.vanish()
    await eventually(lambda: bool(engine.cancels), timeout_s=2.0, what="the cancel")
    assert engine.cancels[0].request_id == dispatch.request_id
    assert (await peers.event("cancelled")).request_id == dispatch.request_id


async def test_a_request_is_cancelled_by_its_id(bus: Bus, gateway: ServiceProcess, peers: GatewayPeers) -> None:
    """A cancel on the request's own subject ends the stream with the typed error and the engine's work."""
    caller = await Caller(bus).ask_for()
    engine = peers.engines["e1"]
    dispatch = await engine.dispatched()
    subject = bus.settings.subjects.cancel(dispatch.request_id)
    reply = await bus.request(subject, CancelRequest(request_id=dispatch.request_id), CancelReply)
    assert reply.found
    final = await caller.final()
    assert final.error is not None
    assert final.error["code"] == "cancelled"
    await eventually(lambda: bool(engine.cancels), what="the cancel")


async def test_the_first_reply_names_the_request_before_any_token(
    bus: Bus, gateway: ServiceProcess, peers: GatewayPeers
) -> None:
    """A caller learns the id as soon as the scheduler has queued the request, and an empty body cancels it there."""
    peers.assign = False
    caller = await Caller(bus).ask_for()
    await eventually(lambda: bool(caller.replies), what="the first reply")
    first = caller.replies[0]
    assert (first.seq, first.text, first.model, first.final) == (0, "", MODEL, False)
    await bus.client.publish(bus.settings.subjects.cancel(first.request_id), b"")
    assert ((await caller.final()).error or {})["code"] == "cancelled"


async def test_a_rejection_is_one_final_reply_with_the_schedulers_error(
    bus: Bus, gateway: ServiceProcess, peers: GatewayPeers
) -> None:
    """What the scheduler rejects ends with its error, its retry time, and the headers of nats.micro."""
    from sagellm_common.contracts.scheduling import SubmitReply

    error = {"code": "resource_exhausted", "message": "the queue is full", "retry_after_s": 3.0}
    peers.answer = lambda submit: SubmitReply(status="rejected", error=error)
    caller = await Caller(bus).ask_for()
    final = await caller.final()
    assert final.error == error
    assert caller.messages[-1].headers is not None
    assert caller.messages[-1].headers["Nats-Service-Error-Code"] == "429"


async def test_the_callers_trace_goes_on_to_the_engine(bus: Bus, gateway: ServiceProcess, peers: GatewayPeers) -> None:
    """A caller's `traceparent` header reaches the engine with the dispatch, in the same trace."""
    trace_id = "0af7651916cd43dd8448eb211c80319c"
    headers = {"traceparent": f"00-{trace_id}-b7ad6b7169203331-01", **JSON_HEADER}
    await Caller(bus).ask(as_json(), headers)
    await peers.engines["e1"].dispatched()
    assert peers.engines["e1"].headers[0]["traceparent"].split("-")[1] == trace_id


async def test_a_deadline_ends_the_request(bus: Bus, gateway: ServiceProcess, peers: GatewayPeers) -> None:
    """A request that is not done by its deadline fails with the typed error, and its engine is told."""
    caller = await Caller(bus).ask_for(slo={"deadline_ms": 300})
    engine = peers.engines["e1"]
    dispatch = await engine.dispatched()
    assert dispatch.deadline_ms is not None
    assert 0 < dispatch.deadline_ms <= 300
    assert ((await caller.final()).error or {})["code"] == "deadline_exceeded"
    await eventually(lambda: bool(engine.cancels), what="the cancel")


async def test_bodies_are_msgpack_unless_said_otherwise(bus: Bus, gateway: ServiceProcess, peers: GatewayPeers) -> None:
    """A msgpack request is answered in msgpack."""
    caller = await Caller(bus).ask_for()
    engine = peers.engines["e1"]
    await engine.send(await engine.dispatched(), 0, peers.tokens(" fox"), finish="length")
    await caller.final()
    assert msgpack.unpackb(caller.messages[-1].data)["final"] is True
