import copy
import functools
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from regionssl.backbones.norm import SyncBatchNorm, grouped_forward, sync_batch_norm


class OneProcess:
    size = 1


class TwoProcesses:
    size = 2


class Net(nn.Module):
    """Every kind of batch norm; forward gives a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4, momentum=0.3)
        self.timm = BatchNormAct2d(4, eps=1e-3)
        self.rows = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.BatchNorm1d(5, affine=False))
        self.cumulative = nn.BatchNorm1d(5, momentum=None)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.timm(self.norm(self.conv(x)))
        return {"map": features, "rows": self.cumulative(self.rows(features.mean((2, 3))))}


def make_net() -> Net:
    torch.manual_seed(0)
    net = Net().double()
    for module in net.modules():
        if isinstance(module, _BatchNorm) and module.affine:
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return net


def images(count: int) -> Tensor:
    return torch.randn(count, 3, 6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 2 + 1


def weighted_sum(outputs: dict[str, Tensor], rows: slice) -> Tensor:
    """A loss that adds up over rows, with weights that belong to the rows of the whole batch."""
    total = torch.zeros((), dtype=torch.float64)
    for values in outputs.values():
        whole = torch.randn(8, *values.shape[1:], generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        total = total + (values * whole[rows]).sum()
    return total


def buffers(module: nn.Module) -> dict[str, Tensor]:
    return {key: value for key, value in module.named_buffers() if not key.endswith("tracked")}


def train_twice(net: Net, batch: Tensor, rows: slice) -> dict[str, object]:
    """Two forward and backward passes on some rows of the batch."""
    x = batch[rows].clone().requires_grad_()
    for scale in (1.0, 2.0):
        outputs = net(x * scale)
        weighted_sum(outputs, rows).backward()
    return {
        "outputs": {name: values.detach() for name, values in outputs.items()},
        "input_grad": x.grad,
        "grads": {key: parameter.grad for key, parameter in net.named_parameters()},
        "state": net.state_dict(),
        "evaluated": {name: values.detach() for name, values in net.eval()(x).items()},
    }


def work(rank: int, folder: str) -> None:
    """One of two processes: unequal rows, then a process without rows, then no rows at all, then half precision."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    for name, cut in (("unequal", 3), ("empty", 0)):
        net = sync_batch_norm(make_net(), TwoProcesses(), "cpu")
        rows = slice(0, cut) if rank == 0 else slice(cut, 8)
        torch.save(train_twice(net, images(8), rows), f"{folder}/{name}{rank}.pt")
    norm = SyncBatchNorm(nn.BatchNorm1d(4))
    nothing = norm(torch.zeros(0, 4))
    half = norm(torch.full((1, 4), float(rank)).bfloat16())
    torch.save({"nothing": nothing, "half": half, "mean": norm.running_mean}, f"{folder}/edge{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("processes")
    mp.spawn(work, args=(str(folder),), nprocs=2)
    return folder


class TestTwoProcesses:
    @pytest.mark.parametrize("name", ["unequal", "empty"])
    def test_equal_one_process_on_the_whole_batch(self, folder, name):
        first, second = (torch.load(folder / f"{name}{rank}.pt", weights_only=True) for rank in (0, 1))
        expected = train_twice(make_net(), images(8), slice(0, 8))
        close = functools.partial(torch.testing.assert_close, rtol=1e-9, atol=1e-10)
        for kind in ("outputs", "evaluated"):
            for key, values in expected[kind].items():
                close(torch.cat([first[kind][key], second[kind][key]]), values)
        close(torch.cat([first["input_grad"], second["input_grad"]]), expected["input_grad"])
        for key, values in expected["grads"].items():
            close(first["grads"][key] + second["grads"][key], values)
        close(first["state"], expected["state"])
        close(second["state"], expected["state"])

    def test_no_rows_anywhere_leave_no_trace(self, folder):
        edges = [torch.load(folder / f"edge{rank}.pt", weights_only=True) for rank in (0, 1)]
        for rank, edge in enumerate(edges):
            assert edge["nothing"].shape == (0, 4)
            assert edge["half"].dtype == torch.bfloat16
            torch.testing.assert_close(edge["half"].float(), torch.full((1, 4), 2.0 * rank - 1), rtol=0.01, atol=0)
            torch.testing.assert_close(edge["mean"], torch.full((4,), 0.1 * 0.5))


class TestConversion:
    def test_keys_parameters_and_modes_stay(self):
        net = make_net()
        net.norm.eval()
        before, parameters = net.state_dict(), dict(net.named_parameters())
        converted = sync_batch_norm(net, TwoProcesses(), "cpu")
        assert converted is net
        assert list(net.state_dict()) == list(before)
        assert all(parameter is parameters[key] for key, parameter in net.named_parameters())
        norms = [module for module in net.modules() if isinstance(module, _BatchNorm)]
        assert len(norms) == 5
        assert all(isinstance(module, SyncBatchNorm) for module in norms)
        assert not net.norm.training
        assert net.timm.training
        assert (net.timm.eps, net.norm.momentum, net.cumulative.momentum) == (1e-3, 0.3, None)
        copy.deepcopy(net).load_state_dict(before)

    def test_cuda_takes_the_layers_of_torch(self):
        net = sync_batch_norm(make_net(), TwoProcesses(), "cuda:1")
        norms = [module for module in net.modules() if isinstance(module, _BatchNorm)]
        assert all(isinstance(module, nn.SyncBatchNorm) for module in norms)
        assert list(net.state_dict()) == list(make_net().state_dict())

    def test_one_process_keeps_its_layers(self):
        net = make_net()
        kinds = [type(module) for module in net.modules()]
        assert [type(module) for module in sync_batch_norm(net, OneProcess(), "cuda").modules()] == kinds

    def test_a_bare_batch_norm_is_replaced(self):
        norm = nn.BatchNorm2d(3)
        assert isinstance(sync_batch_norm(norm, TwoProcesses(), "cpu"), SyncBatchNorm)

    def test_rows_without_channels_are_refused(self):
        with pytest.raises(ValueError, match="2 dimensions"):
            SyncBatchNorm(nn.BatchNorm1d(3))(torch.zeros(3))


class TestGroups:
    @pytest.mark.parametrize("groups", [2, 4])
    def test_running_statistics_are_those_of_two_processes_of_half_the_groups(self, groups):
        one, first, second = make_net(), make_net(), make_net()
        for step in range(3):  # several steps, with other data each
            batch = images(8) * (step + 1) - step
            outputs = grouped_forward(one, batch, groups)
            halves = [
                grouped_forward(net, part, groups // 2)
                for net, part in zip((first, second), batch.chunk(2), strict=True)
            ]
            for key, values in outputs.items():
                torch.testing.assert_close(values, torch.cat([half[key] for half in halves]))
            for (key, value), other in zip(buffers(first).items(), buffers(second).values(), strict=True):
                if "cumulative" not in key:
                    mean = (value + other) / 2
                    value.copy_(mean)
                    other.copy_(mean)
                    torch.testing.assert_close(buffers(one)[key], mean, rtol=1e-12, atol=1e-12)

    def test_running_statistics_move_by_the_mean_over_groups(self):
        norm = nn.BatchNorm1d(3, momentum=0.1).double()
        norm.running_mean.fill_(5)
        x = torch.randn(12, 3, dtype=torch.float64) * torch.arange(1, 13).double()[:, None]
        grouped_forward(norm, x, 3)
        parts = x.chunk(3)
        mean = torch.stack([part.mean(0) for part in parts]).mean(0)
        variance = torch.stack([part.var(0) for part in parts]).mean(0)
        torch.testing.assert_close(norm.running_mean, 0.9 * 5 + 0.1 * mean)
        torch.testing.assert_close(norm.running_var, 0.9 + 0.1 * variance)
        assert norm.num_batches_tracked == 3
        assert norm.momentum == 0.1

    def test_each_group_is_normalised_by_itself_and_gradients_flow(self):
        norm = nn.BatchNorm1d(3, affine=False).double()
        x = torch.randn(8, 3, dtype=torch.float64, requires_grad=True)
        out = grouped_forward(norm, x, 2)
        weights = torch.randn_like(out)
        (gradient,) = torch.autograd.grad((out * weights).sum(), x)
        for rows in (slice(0, 4), slice(4, 8)):
            alone = x[rows].detach().requires_grad_()
            expected = nn.BatchNorm1d(3, affine=False).double()(alone)
            torch.testing.assert_close(out[rows], expected)
            torch.testing.assert_close(gradient[rows], torch.autograd.grad((expected * weights[rows]).sum(), alone)[0])

    @pytest.mark.parametrize("groups", [2, 4])
    def test_rows_together_equal_rows_apart(self, groups):
        apart, together = make_net(), make_net()
        for step in range(2):
            batch = images(8) * (step + 1) - step
            expected, outputs = (
                grouped_forward(apart, batch, groups),
                grouped_forward(together, batch, groups, rowwise=True),
            )
            for net, found in ((apart, expected), (together, outputs)):
                net.zero_grad()
                weighted_sum(found, slice(0, 8)).backward()
            for key, values in expected.items():
                torch.testing.assert_close(outputs[key], values, rtol=1e-12, atol=1e-12)
            for (key, parameter), other in zip(apart.named_parameters(), together.parameters(), strict=True):
                torch.testing.assert_close(other.grad, parameter.grad, rtol=1e-9, atol=1e-10, msg=key)
            torch.testing.assert_close(together.state_dict(), apart.state_dict(), rtol=1e-12, atol=1e-12)
        assert [norm.momentum for norm in together.modules() if isinstance(norm, _BatchNorm)] == [
            norm.momentum for norm in make_net().modules() if isinstance(norm, _BatchNorm)
        ]

    def test_rows_together_are_one_call(self):
        net, sizes = make_net(), []
        net.conv.register_forward_hook(lambda _module, inputs, _output: sizes.append(len(inputs[0])))
        grouped_forward(net, images(8), 4, rowwise=True)
        net(images(6))
        assert sizes == [8, 6]
        torch.testing.assert_close(net(images(6)), copy.deepcopy(net)(images(6)))  # nothing of the groups is left

    def test_tuples_of_inputs_and_outputs_and_another_method(self):
        class Pair(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.norm = nn.BatchNorm1d(2)

            def encode(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
                assert len(x) == len(y) == 2
                return self.norm(x), y[:1]  # outputs need not have as many rows

        pair = Pair()
        x, y = torch.randn(6, 2), torch.arange(6)
        normed, firsts = grouped_forward(pair, (x, y), 3, forward=pair.encode)
        torch.testing.assert_close(normed.unflatten(0, (3, 2)).mean(1), torch.zeros(3, 2), atol=1e-6, rtol=0)
        assert firsts.tolist() == [0, 2, 4]

    @pytest.mark.parametrize(
        ("module", "groups"),
        [(nn.BatchNorm1d(2), 1), (nn.LayerNorm(2), 3), (nn.BatchNorm1d(2).eval(), 3)],
        ids=["one group", "no batch norm", "evaluation"],
    )
    def test_one_plain_call_where_groups_make_no_difference(self, module, groups):
        sizes = []
        module.register_forward_hook(lambda _module, inputs, _output: sizes.append(len(inputs[0])))
        out = grouped_forward(module, torch.randn(6, 2), groups)
        assert out.shape == (6, 2)
        assert sizes == [6]

    def test_momentum_comes_back_after_an_error(self):
        norm = nn.BatchNorm1d(2, momentum=0.2)
        with pytest.raises(ValueError, match="more than 1 value"):
            grouped_forward(norm, torch.randn(3, 2), 3)
        assert norm.momentum == 0.2

    def test_groups_that_do_not_divide_the_batch_are_refused(self):
        with pytest.raises(ValueError, match="7 rows cannot be cut into 2 equal groups"):
            grouped_forward(nn.BatchNorm1d(2), torch.randn(7, 2), 2)
