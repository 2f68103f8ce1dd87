#include "learn_plot.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

/* More points than this cannot be told apart in a panel. */
enum { MAX_POINTS = 600 };

static double distill_of(const learn_step *s) { return s->distill; }
static double ratio_of(const learn_step *s) { return 100 * s->ratio; }
static double near_zero_of(const learn_step *s) { return 100 * s->near_zero; }

/* The values of all updates of one stage, as means over runs of updates where there are many. */
static void draw_stage(const plot_panel *p, const learn_step *steps, size_t n,
                       double (*value)(const learn_step *), svg_pen pen) {
  size_t per_point = 1 + (n - 1) / MAX_POINTS;
  svg_point *points = cli_alloc(n, sizeof *points);
  size_t n_points = 0;
  for (size_t i = 0; i < n; i += per_point) {
    size_t count = n - i < per_point ? n - i : per_point;
    svg_point sum = {0, 0};
    for (size_t j = i; j < i + count; j++) {
      sum.x += steps[j].x;
      sum.y += value(&steps[j]);
    }
    points[n_points++] = (svg_point){sum.x / (double)count, sum.y / (double)count};
  }
  plot_curve(p, points, n_points, pen);
  free(points);
}

/* The stages apart: the loss jumps between them. */
static void draw_steps(const plot_panel *p, const learn_log *log,
                       double (*value)(const learn_step *), svg_pen pen) {
  size_t border = 0;
  while (border < log->n_steps && log->steps[border].stage == 1) border++;
  if (border > 0) draw_stage(p, log->steps, border, value, pen);
  if (border < log->n_steps) draw_stage(p, log->steps + border, log->n_steps - border, value, pen);
}

static void draw_evals(const plot_panel *p, const learn_log *log, svg_pen pen) {
  svg_point *points = cli_alloc(log->n_evals, sizeof *points);
  for (size_t i = 0; i < log->n_evals; i++)
    points[i] = (svg_point){log->evals[i].x, log->evals[i].kl};
  plot_curve(p, points, log->n_evals, pen);
  for (size_t i = 0; i < log->n_evals; i++) {
    if (points[i].y > 0) svg_disc(p->svg, plot_at(p, points[i].x, points[i].y), 3, pen.colour);
  }
  free(points);
}

/* ---- axes ---- */

static void widen(double value, double *least, double *most) {
  if (!(value > 0)) return;
  *least = fmin(*least, value);
  *most = fmax(*most, value);
}

/* Whole decades around everything above 0. */
static void log_range(plot_panel *p, const learn_log *log) {
  double least = HUGE_VAL, most = 0;
  for (size_t i = 0; i < log->n_steps; i++) widen(log->steps[i].distill, &least, &most);
  for (size_t i = 0; i < log->n_evals; i++) widen(log->evals[i].kl, &least, &most);
  if (most == 0) least = most = 1;
  double first = fmax(floor(log10(least)), -300), last = fmin(ceil(log10(most)), 300);
  if (last <= first) last = first + 1;
  p->y0 = pow(10, first);
  p->y1 = pow(10, last);
  p->log_y = true;
}

static void draw_axes(const plot_panel *p, const learn_log *log, const char *y_label) {
  char text[64];
  plot_x_ticks(p);
  plot_x_label(p, 36, "update");
  plot_y_label(p, y_label);
  plot_baseline(p);
  if (log->stage1_end == 0 || log->x_end <= (double)log->stage1_end) return;
  double border = (double)log->stage1_end;
  svg_point foot = plot_at(p, border, p->y0);
  svg_line(p->svg, foot, (svg_point){foot.x, p->top}, (svg_pen){PLOT_MUTED, 1, "4 3"});
  for (int stage = 1; stage <= 2; stage++) {
    svg_font font = {11, PLOT_MUTED, stage == 1 ? SVG_END : SVG_START, false, false};
    snprintf(text, sizeof text, "stage %d%s", stage, log->choice == stage ? " (kept)" : "");
    svg_text(p->svg, (svg_point){foot.x + (stage == 1 ? -6 : 6), p->top + 13}, font, text);
  }
}

void learn_plot_losses(plot_panel p, const learn_log *log) {
  static const plot_key keys[] = {{PLOT_STROKE, PLOT_BLUE, "distillation loss"},
                                  {PLOT_DOTS, PLOT_ORANGE, "held-out KL"}};
  p.x0 = 0;
  p.x1 = fmax(log->x_end, 1);
  log_range(&p, log);
  plot_title(&p, "Learning: loss");
  plot_legend(&p, keys, log->n_evals ? 2 : 1);
  plot_y_ticks(&p, "");
  draw_axes(&p, log, "loss; KL in nats");
  draw_steps(&p, log, distill_of, (svg_pen){PLOT_BLUE, 1.5, NULL});
  draw_evals(&p, log, (svg_pen){PLOT_ORANGE, 1.8, NULL});
}

void learn_plot_shares(plot_panel p, const learn_log *log) {
  static const plot_key keys[] = {{PLOT_STROKE, PLOT_GREEN, "removed by the rounded mask"},
                                  {PLOT_STROKE, PLOT_ORANGE, "alpha near zero"}};
  p.x0 = 0;
  p.x1 = fmax(log->x_end, 1);
  p.y0 = 0;
  p.y1 = 100;
  p.log_y = false;
  plot_title(&p, "Learning: sparsity");
  plot_legend(&p, keys, 2);
  plot_y_ticks(&p, " %");
  draw_axes(&p, log, "share of K channels");
  draw_steps(&p, log, ratio_of, (svg_pen){PLOT_GREEN, 1.8, NULL});
  draw_steps(&p, log, near_zero_of, (svg_pen){PLOT_ORANGE, 1.8, NULL});
}
