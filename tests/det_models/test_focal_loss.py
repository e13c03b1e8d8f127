import pytest
import torch
import torch.nn.functional as F
from det_models.losses import focal
from det_models.losses.focal import FocalLoss, focal_loss_with_logits


def by_definition(logits, labels, gamma=2.0, alpha=0.25):
    """Eq. 5 of the paper in float64, entry by entry."""
    logits = logits.double()
    target = F.one_hot(labels, logits.shape[1] + 1)[:, :-1].bool()
    log_p_t = torch.where(target, F.logsigmoid(logits), F.logsigmoid(-logits))
    alpha_t = torch.where(target, alpha, 1 - alpha)
    return -alpha_t * (1 - log_p_t.exp()) ** gamma * log_p_t


@pytest.fixture
def logits():
    return torch.randn(50, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 4


@pytest.fixture
def labels():
    return torch.randint(0, 5, (50,), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def weights():
    return torch.rand(50, generator=torch.Generator().manual_seed(2), dtype=torch.float64).round(decimals=1)


@pytest.mark.parametrize(("gamma", "alpha"), [(2.0, 0.25), (1.5, 0.5), (0.0, 0.75), (2.0, 1.0), (2.0, 0.0)])
def test_the_sum_is_the_papers(logits, labels, weights, gamma, alpha):
    loss = FocalLoss(gamma=gamma, alpha=alpha, loss_weight=3.0)
    want = (by_definition(logits, labels, gamma, alpha) * weights[:, None]).sum()
    torch.testing.assert_close(loss(logits, labels, weights, reduction_override="sum"), 3 * want)
    torch.testing.assert_close(loss(logits, labels, weights, avg_factor=7.0), 3 * want / 7, rtol=1e-6, atol=0)
    torch.testing.assert_close(loss(logits, labels, weights), 3 * want / 200, rtol=1e-6, atol=0)


def test_entries_are_the_papers(logits, labels):
    got = FocalLoss()(logits, labels, reduction_override="none")
    torch.testing.assert_close(got, by_definition(logits, labels))


@pytest.mark.parametrize(("gamma", "alpha"), [(2.0, 0.25), (1.5, 0.5)])
def test_the_gradient_is_the_derivative(logits, labels, weights, gamma, alpha):
    loss = FocalLoss(gamma=gamma, alpha=alpha)
    rows = (logits[:12].requires_grad_(), labels[:12], weights[:12])
    assert torch.autograd.gradcheck(lambda x: loss(x, *rows[1:], avg_factor=3.0), rows[0])
    maps = logits[:12].detach().view(3, 4, 4).requires_grad_()
    cells = (labels[:12].view(3, 4), weights[:12].view(3, 4))
    assert torch.autograd.gradcheck(lambda x: loss(x, *cells, avg_factor=3.0), maps)


@pytest.mark.parametrize("block", [1, 16, 48, 1 << 20])
def test_neither_layout_nor_blocks_change_sum_or_gradient(monkeypatch, labels, weights, block):
    monkeypatch.setitem(focal._BLOCK, "cpu", block)
    maps = torch.randn(
        5, 4, 10, generator=torch.Generator().manual_seed(3), dtype=torch.float64, requires_grad=True
    )
    loss = FocalLoss()
    value = loss(maps, labels.view(5, 10), weights.view(5, 10), avg_factor=2.0)
    value.backward()
    rows = maps.detach().transpose(1, 2).reshape(50, 4).requires_grad_()
    want = (by_definition(rows, labels) * weights[:, None]).sum() / 2
    want.backward()
    torch.testing.assert_close(value, want.detach(), rtol=1e-6, atol=0)
    torch.testing.assert_close(maps.grad, rows.grad.view(5, 10, 4).transpose(1, 2), rtol=1e-6, atol=1e-12)


def test_extreme_logits_keep_value_and_gradient():
    logits = torch.tensor([[-120.0], [-60.0], [-1e-4], [0.0], [60.0], [120.0]], requires_grad=True)
    for label in (0, 1):
        logits.grad = None
        labels = torch.full((6,), label)
        value = FocalLoss()(logits, labels, reduction_override="sum")
        value.backward()
        exact = logits.detach().double().requires_grad_()
        want = by_definition(exact, labels).sum()
        want.backward()
        assert float(value.detach()) == pytest.approx(float(want.detach()), rel=1e-6)
        torch.testing.assert_close(logits.grad.double(), exact.grad, rtol=1e-5, atol=1e-30)


def test_softplus_is_exact_to_the_last_digits():
    z = torch.linspace(-80, 120, 200001)
    scratch = [torch.empty_like(z) for _ in range(2)]
    got = focal._softplus(z, torch.sigmoid(z), torch.sigmoid(-z), *scratch).double()
    exact = torch.where(z < 30, torch.log1p(z.double().exp()), z.double())
    assert float(((got - exact) / exact).abs().max()) < 4e-7


def test_labels_and_their_one_hot_form_agree(logits, labels, weights):
    target = F.one_hot(labels, 5)[:, :4]
    loss = FocalLoss()
    torch.testing.assert_close(
        loss(logits, labels, weights, avg_factor=3.0), loss(logits, target, weights, avg_factor=3.0)
    )
    entries = weights[:, None].expand(-1, 4)
    torch.testing.assert_close(
        loss(logits, labels, entries, avg_factor=3.0), loss(logits, labels, weights, avg_factor=3.0)
    )


def test_probabilities_that_are_activated_already_give_the_same(logits, labels, weights):
    logits = logits.clamp(-10, 10)
    got = FocalLoss(activated=True)(logits.sigmoid(), labels, weights, avg_factor=3.0)
    torch.testing.assert_close(got, FocalLoss()(logits, labels, weights, avg_factor=3.0), rtol=1e-5, atol=0)


def test_background_is_any_label_outside_of_the_classes(logits):
    labels = torch.full((50,), 4)
    one = FocalLoss()(logits, labels, avg_factor=1.0)
    torch.testing.assert_close(one, FocalLoss()(logits, labels * 0 - 1, avg_factor=1.0))
    torch.testing.assert_close(
        one, focal_loss_with_logits(logits, torch.zeros_like(logits)).sum(), rtol=1e-6, atol=0
    )


def test_bfloat16_logits_are_summed_in_float32(labels):
    exact = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)).bfloat16()
    logits = exact.clone().requires_grad_()
    value = FocalLoss()(logits, labels, avg_factor=3.0)
    value.backward()
    assert value.dtype == torch.float32
    assert logits.grad.dtype == torch.bfloat16
    want = exact.float().requires_grad_()
    FocalLoss()(want, labels, avg_factor=3.0).backward()
    torch.testing.assert_close(logits.grad.float(), want.grad, rtol=1e-2, atol=1e-6)


def test_backward_may_run_twice_and_be_scaled(logits, labels):
    logits.requires_grad_()
    value = FocalLoss()(logits, labels, avg_factor=3.0)
    (first,) = torch.autograd.grad(value, logits, retain_graph=True)
    (second,) = torch.autograd.grad(5 * value, logits)
    torch.testing.assert_close(second, 5 * first)


def test_an_average_factor_on_the_device_is_as_good_as_a_number(logits, labels):
    one = FocalLoss()(logits, labels, avg_factor=torch.tensor(3))
    torch.testing.assert_close(one, FocalLoss()(logits, labels, avg_factor=3.0))


def test_empty_input_gives_zero_with_a_gradient():
    logits = torch.zeros(0, 3, requires_grad=True)
    value = FocalLoss()(logits, torch.zeros(0, dtype=torch.long), avg_factor=0.0)
    value.backward()
    assert float(value.detach()) == 0
    assert logits.grad.shape == (0, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda loss, x, y: loss(x[0], y), r"\[N, C\] or \[N, C, P\], got \(4,\)"),
        (lambda loss, x, y: loss(x, y[:3]), r"targets of shape \(3,\)"),
        (lambda loss, x, y: loss(x, y, torch.ones(3)), r"weights of shape \(3,\)"),
        (lambda loss, x, y: loss(x, y.float()), "labels must be integers"),
        (lambda loss, x, y: loss(x, y, reduction_override="max"), "none, mean, sum, got 'max'"),
        (
            lambda loss, x, y: loss(x, y, avg_factor=1.0, reduction_override="sum"),
            "avg_factor has no meaning",
        ),
    ],
)
def test_input_that_does_not_fit_is_refused(logits, labels, call, message):
    with pytest.raises(ValueError, match=message):
        call(FocalLoss(), logits, labels)


def test_only_the_sigmoid_form_exists():
    with pytest.raises(ValueError, match="use_sigmoid=True"):
        FocalLoss(use_sigmoid=False)
