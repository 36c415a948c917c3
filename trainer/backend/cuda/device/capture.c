/* capture.c - captured work: executable graphs.
 * A loop is a conditional node that holds a graph of its own. The stream captures one graph at a time, so that the
 * capture is broken off in front of the loop, goes into the node's graph, and then on behind the node. Source: CUDA C++
 * Programming Guide, "Conditional Graph Nodes". SPDX-License-Identifier: Apache-2.0 */
#include "trainer/backend/cuda/device/device.h"

int capture_begin(struct device *d, struct error *err)
{
    enter(d);
    return cuda_fail(err, cudaStreamBeginCapture(d->stream, cudaStreamCaptureModeThreadLocal), "capture");
}

static int instantiate(struct device *d, cudaGraph_t graph, struct captured **ret, struct error *err)
{
    cudaGraphExec_t exec = NULL;
    cudaError_t status = cudaGraphInstantiate(&exec, graph, 0);
    int rc = cuda_fail(err, status, "making a graph");

    if (rc)
        return rc == -EIO && d->loop.graph ? -ENOTSUP : rc;
    if ((rc = cuda_fail(err, cudaGraphUpload(exec, d->stream), "making a graph"))) {
        cudaGraphExecDestroy(exec);
        return rc;
    }
    *ret = (struct captured *)exec;
    return 0;
}

int capture_end(struct device *d, struct captured **ret, struct error *err)
{
    cudaGraph_t graph = NULL, whole;
    int rc;

    enter(d);
    rc = cuda_fail(err, cudaStreamEndCapture(d->stream, &graph), "capture");
    whole = d->loop.graph ? d->loop.graph : graph; /* with a loop inside, graph is that one's or NULL */
    if (!rc && ret)
        rc = instantiate(d, whole, ret, err);
    if (whole)
        cudaGraphDestroy(whole);
    memset(&d->loop, 0, sizeof d->loop);
    return rc;
}

#if HAS_LOOPS

#define LEAVES 16

/* What was captured becomes a graph that the loop is added to. */
static cudaError_t add_loop(struct device *d, cudaGraph_t *ret_body)
{
    struct cudaGraphNodeParams params = {.type = cudaGraphNodeTypeConditional};
    const cudaGraphNode_t *nodes = NULL;
    cudaGraphNode_t leaves[LEAVES];
    enum cudaStreamCaptureStatus state;
    cudaGraph_t graph = NULL;
    size_t n = 0;
    cudaError_t status = cudaStreamGetCaptureInfo(d->stream, &state, NULL, &graph, &nodes, NULL, &n);

    if (status == cudaSuccess && (state != cudaStreamCaptureStatusActive || n > LEAVES))
        return cudaErrorNotSupported;
    for (size_t i = 0; status == cudaSuccess && i < n; i++)
        leaves[i] = nodes[i];
    if (status != cudaSuccess || (status = cudaStreamEndCapture(d->stream, &d->loop.graph)) != cudaSuccess ||
        (status = cudaGraphConditionalHandleCreate(&params.conditional.handle, d->loop.graph, 1,
                                                   cudaGraphCondAssignDefault)) != cudaSuccess)
        return status;
    params.conditional.type = cudaGraphCondTypeWhile;
    params.conditional.size = 1;
    status = cudaGraphAddNode(&d->loop.node, d->loop.graph, leaves, NULL, n, &params);
    d->loop.handle = params.conditional.handle;
    *ret_body = status == cudaSuccess ? params.conditional.phGraph_out[0] : NULL;
    return status;
}

int capture_loop_begin(struct device *d, struct error *err)
{
    cudaGraph_t body = NULL;
    cudaError_t status;
    int rc;

    enter(d);
    status = add_loop(d, &body);
    if (status == cudaSuccess)
        status = cudaStreamBeginCaptureToGraph(d->stream, body, NULL, NULL, 0, cudaStreamCaptureModeThreadLocal);
    rc = cuda_fail(err, status, "a loop");
    return rc == -EIO ? -ENOTSUP : rc;
}

int capture_loop_end(struct device *d, uint32_t *left, struct error *err)
{
    cudaGraph_t body;
    cudaError_t status;

    enter(d);
    if ((status = cuda_count_down(d->stream, d->loop.handle, left)) == cudaSuccess &&
        (status = cudaStreamEndCapture(d->stream, &body)) == cudaSuccess)
        status = cudaStreamBeginCaptureToGraph(d->stream, d->loop.graph, &d->loop.node, NULL, 1,
                                               cudaStreamCaptureModeThreadLocal);
    return cuda_fail(err, status, "a loop");
}

#else

int capture_loop_begin(struct device *d, struct error *err)
{
    (void)d;
    return fail(err, -ENOTSUP, "loops need a build by CUDA 13, this one is by %d.%d", CUDART_VERSION / 1000,
                CUDART_VERSION % 1000 / 10);
}

int capture_loop_end(struct device *d, uint32_t *left, struct error *err)
{
    (void)d, (void)left;
    return fail(err, -ENOTSUP, "there are no loops");
}

#endif

int capture_replay(struct device *d, struct captured *captured, struct error *err)
{
    enter(d);
    return cuda_fail(err, cudaGraphLaunch((cudaGraphExec_t)captured, d->stream), "running a graph");
}

void captured_free(struct device *d, struct captured *captured)
{
    enter(d);
    cudaStreamSynchronize(d->stream); /* it may still run */
    cudaGraphExecDestroy((cudaGraphExec_t)captured);
}
