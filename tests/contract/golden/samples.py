"""One filled-in message of every type of the contract; their bytes are kept as golden files per released version."""

from sagellm_common.contracts.base import Message
from sagellm_common.contracts.decisions import Candidate, Decision, DecisionRecord, ExplainRequest
from sagellm_common.contracts.dispatch import Ack, ControlReply, ControlRequest, Dispatch, DispatchReply, ResendRequest
from sagellm_common.contracts.engines import EngineRegistration
from sagellm_common.contracts.events import ModelEvent, RequestEvent
from sagellm_common.contracts.frames import TokenFrame, TokenItem
from sagellm_common.contracts.generate import (
    CancelReply,
    CancelRequest,
    ChatMessage,
    GenerateReply,
    GenerateRequest,
    TokenLogprob,
    ToolCall,
    Usage,
)
from sagellm_common.contracts.handoff import (
    KvMemory,
    LeaseAbort,
    LeaseClose,
    LeaseClosed,
    LeaseName,
    LeaseOffer,
    LeaseReady,
    LeaseTaken,
)
from sagellm_common.contracts.kv import KvEvents, SnapshotReply, SnapshotRequest
from sagellm_common.contracts.packed import Packed
from sagellm_common.contracts.plan import EngineGroup, FleetPlan, MeanTokens
from sagellm_common.contracts.policy import Leader, Policy, PolicyChange, PolicyReply
from sagellm_common.contracts.registry import (
    DownloadReply,
    DownloadRequest,
    ListQuery,
    ListReply,
    ModelCard,
    ModelInfo,
    ModelQuery,
    ModelReply,
    TagRequest,
)
from sagellm_common.contracts.reports import EngineReport, Gauges, Progress, StepSample
from sagellm_common.contracts.sampling import SamplingOptions
from sagellm_common.contracts.scheduling import (
    Assignment,
    GatewayHeartbeat,
    Notice,
    OpenQuery,
    OpenReply,
    OpenRequest,
    PrefillAssignment,
    Submit,
    SubmitReply,
)
from sagellm_common.contracts.slo import Priority, Slo

ERROR = {"code": "unavailable", "message": "no engine is ready", "retry_after_s": 1.5}
SAMPLING = SamplingOptions(max_tokens=32, temperature=0.5, top_p=0.9, top_k=40, seed=7, logprobs=2, n=2)
SUBMIT = Submit(
    request_id="r1",
    epoch=1,
    gateway_id="g1",
    model="sage-tiny",
    prompt_tokens=12,
    max_tokens=32,
    delivered_tokens=3,
    block_hashes=(1, 2),
    prefix_hash=9,
    slo=Slo(ttft_ms=200.0),
    priority=Priority.HIGH,
    failed_engines=("e0",),
)
ASSIGNMENT = Assignment(
    request_id="r1",
    epoch=1,
    engine_id="e1",
    incarnation="i1",
    leader_epoch=(5, 6),
    number=3,
    dispatch_timeout_ms=900.0,
    prefill=PrefillAssignment(engine_id="p1", incarnation="i9", number=4),
    itl_ms=15.0,
)
LEASE = LeaseName("i1", "r1", 1, 7)
MEMORY = KvMemory("hash", "plain", "paged", "bfloat16", 24, 2, 4, 128, 16, 1000, 2**40, 48, 2**30, 2**15, "cuda:1")
MODEL = ModelInfo(model_id="org/m", path="models/m", size=10, last_used=2.0, tags={"type": "text"})
CARD = ModelCard(
    model_id="org/m",
    path="models/m",
    architecture="LlamaForCausalLM",
    max_model_len=2048,
    vocab_size=4096,
    eos_token_ids=(2,),
)
RECORD = DecisionRecord(
    request_id="r1",
    model="sage-tiny",
    prompt_tokens=12,
    max_tokens=32,
    priority=1,
    decisions=[
        Decision(
            epoch=1,
            scheduler_id="s1",
            leader_epoch=(5, 6),
            time_s=1.0,
            queue_policy="fifo",
            router="load_balanced",
            queue_position=0,
            queued_ms=1.5,
            candidates=[
                Candidate(engine_id="e1", load=2.0, running=1),
                Candidate(engine_id="e2", load=0.0, excluded="x"),
            ],
            chosen="e1",
            reason="least load",
            number=3,
            gave_way=True,
            promised_itl_ms=20.0,
        )
    ],
    outcome="finished",
    ttft_ms=12.5,
)

SAMPLES: list[Message | Packed] = [
    GenerateRequest(
        model="sage-tiny",
        messages=[ChatMessage(role="user", content="héllo")],
        sampling=SAMPLING,
        stop=["\n"],
        slo=Slo(ttft_ms=100.0, itl_ms=20.0),
        client_request_id="mine",
    ),
    GenerateReply(
        request_id="r1",
        seq=3,
        model="sage-tiny",
        text="hi",
        token_ids=[4],
        logprobs=[TokenLogprob(token="hi", token_id=4, logprob=-0.5)],
        tool_calls=[ToolCall(id="call_1", name="f", arguments="{}")],
        finish_reason="stop",
        final=True,
        usage=Usage(prompt_tokens=12, completion_tokens=1, cached_tokens=8),
        error=ERROR,
    ),
    CancelRequest(request_id="r1", epoch=1, reason="gone"),
    CancelReply(found=True),
    SUBMIT,
    SubmitReply(status="rejected", position=4, predicted_ttft_ms=20.0, error=ERROR),
    ASSIGNMENT,
    Notice(kind="engine_lost", engine_id="e1", incarnation="i1"),
    OpenQuery(scheduler_id="s1"),
    OpenReply(gateway_id="g1", requests=[OpenRequest(submit=SUBMIT, assignment=ASSIGNMENT)], part=1, last=False),
    GatewayHeartbeat(gateway_id="g1", incarnation="i1", open_requests=3, draining=True),
    Dispatch(
        request_id="r1",
        epoch=1,
        gateway_id="g1",
        model="sage-tiny",
        incarnation="i1",
        leader_epoch=(5, 6),
        assignment_number=3,
        prompt_token_ids=[1, 2, 3],
        sampling=SAMPLING,
        delivered=[[4], []],
        finished_choices=[1],
        priority=Priority.LOW,
        deadline_ms=1000.0,
        itl_ms=15.0,
    ),
    DispatchReply(accepted=True, duplicate=True),
    ResendRequest(request_id="r1", epoch=1, choice=1, from_index=5),
    Ack(gateway_id="g1", requests=[("r1", 1)]),
    ControlRequest(action="drain"),
    ControlReply(state="draining", running=1, waiting=2, detail={"a": 1}),
    TokenFrame("e1", "i1", 7, [TokenItem("r1", 1, 0, 5, [4, 5], [[-0.5, [[4, -0.5]]]], "stop", ERROR, 8)]),
    TokenItem("r1", 1, 0, 5, [4, 5]),
    KvEvents("e1", "i1", 4, [11, 2**62], [12], True),
    LeaseOffer(LEASE, "p1", [4, 5, 9], 2, MEMORY, b"agent"),
    LeaseTaken(LEASE, "d1", False),
    LeaseReady(LEASE, "p1", 3),
    LeaseClose(LEASE, "d1", True),
    LeaseClosed(LEASE, "p1", True, 17, [-0.5, [[17, -0.5], [3, -1.5]]]),
    LeaseAbort(request_id="r1", epoch=1, reason="gone"),
    SnapshotRequest(scheduler_id="s1"),
    SnapshotReply(engine_id="e1", incarnation="i1", number=4, blocks=[11, 2**62], part=1, last=False),
    EngineReport(
        "e1",
        "i1",
        3,
        Gauges(100, 50, 20, 1, 2, 300, 400, 0.5, 1, 77, 0.015),
        [5, 6],
        3,
        "draining",
        [StepSample(0.01, 130, 128, 2, 900, 1280, 16, 1)],
        {"g1": [Progress("r1", 1, 0, 7, True)]},
    ),
    EngineRegistration(
        engine_id="e1",
        incarnation="i1",
        role="decode",
        models=("sage-tiny",),
        backend="cpu",
        kind="cpu/float32/abc",
        max_model_len=2048,
        page_size=16,
        num_pages=100,
        max_num_seqs=64,
        max_batch_tokens=512,
        model_id="org/m",
    ),
    RequestEvent(request_id="r1", phase="finished", epoch=1, engine_id="e1", ttft_ms=12.5, completion_tokens=3),
    ModelEvent(model_id="org/m", phase="downloading", done_bytes=5, total_bytes=10),
    RECORD,
    ExplainRequest(request_id="r1"),
    Policy(queue="priority", router="affinity"),
    PolicyChange(router="random"),
    PolicyReply(policy=Policy(), known_queues=["fifo"], known_routers=["random"]),
    Leader(scheduler_id="s1", started_at=1.5),
    FleetPlan(
        model="sage-tiny",
        time_s=1.5,
        groups=[
            EngineGroup(kind="cpu/float32/abc", role="prefill", count=1),
            EngineGroup(kind="cpu/float32/abc", layout="TP2", role="decode", count=2),
        ],
        engines_now=2,
        ready={"hybrid": 2},
        requests_per_s=4.5,
        expected_per_s=5.5,
        burst=1.25,
        request=MeanTokens(new=512.0, output=128.0, context=700.0, products=65536.0, long_prompt=2048.0),
        margin=1.1,
        attainment=0.99,
        price_per_hour=3.0,
        reason="an engine prefills and decodes 5 requests/s",
        hours=[3.0, 4.0],
        last_hour=7,
    ),
    ListQuery(tags={"type": "text"}),
    ListReply(models=[MODEL]),
    ModelQuery(model_id="org/m", revision="abc"),
    ModelReply(model=MODEL, card=CARD),
    CARD,
    DownloadRequest(model_id="org/m"),
    DownloadReply(status="present", model=MODEL),
    TagRequest(model_id="org/m", tags={"type": "text", "old": None}),
]
