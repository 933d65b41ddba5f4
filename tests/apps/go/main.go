// Command app-go is the middle service of the test application: it prices an article by asking the stock
// service, and is instrumented as the documentation of OpenTelemetry Go says and no further.
//
// Everything about telemetry comes from the standard OTEL_* variables. Spans leave over gRPC; metrics and log
// records leave over HTTP: one process that uses both receivers.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"

	"go.opentelemetry.io/contrib/bridges/otelslog"
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/exporters/otlp/otlplog/otlploghttp"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetrichttp"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/log/global"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	sdklog "go.opentelemetry.io/otel/sdk/log"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

const route = "GET /price/{article}/{number}"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context) error {
	shutdown, err := setUp(ctx)
	if err != nil {
		return err
	}
	priced, err := otel.Meter("app-go").Int64Counter("shop.prices", metric.WithUnit("{price}"))
	if err != nil {
		return err
	}
	stock := os.Getenv("STOCK_URL")
	client := &http.Client{Transport: otelhttp.NewTransport(http.DefaultTransport)}
	logger := otelslog.NewLogger("app-go")
	price := func(w http.ResponseWriter, r *http.Request) {
		order := r.PathValue("article") + "/" + r.PathValue("number")
		status, answer, err := ask(r.Context(), client, stock+"/stock/"+order)
		if err == nil && status >= http.StatusInternalServerError {
			err = fmt.Errorf("the stock service answered %d", status)
		}
		if err != nil {
			logger.ErrorContext(r.Context(), "pricing failed "+order, slog.Any("error", err))
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		priced.Add(r.Context(), 1)
		logger.InfoContext(r.Context(), "priced "+order, slog.Int("status", status))
		w.WriteHeader(status)
		_, _ = w.Write(answer)
	}
	mux := http.NewServeMux()
	mux.Handle(route, otelhttp.NewHandler(http.HandlerFunc(price), route))
	// Outside the instrumentation: the test asks it until the service is up.
	mux.HandleFunc("GET /ready", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	server := &http.Server{Handler: mux}
	listener, err := net.Listen("tcp", "127.0.0.1:"+os.Getenv("PORT"))
	if err != nil {
		return err
	}
	go func() {
		<-ctx.Done()
		_ = server.Shutdown(context.Background())
	}()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return shutdown(context.Background())
}

// ask gets url and gives the status and the body.
func ask(ctx context.Context, client *http.Client, url string) (int, []byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, nil, err
	}
	answer, err := client.Do(request)
	if err != nil {
		return 0, nil, err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	return answer.StatusCode, body, err
}

// setUp makes the three providers; the returned function flushes and ends them.
func setUp(ctx context.Context) (func(context.Context) error, error) {
	res, err := resource.New(ctx, resource.WithFromEnv(), resource.WithTelemetrySDK(), resource.WithHost(), resource.WithProcess())
	if err != nil {
		return nil, err
	}
	spans, err := otlptracegrpc.New(ctx)
	if err != nil {
		return nil, err
	}
	points, err := otlpmetrichttp.New(ctx)
	if err != nil {
		return nil, err
	}
	records, err := otlploghttp.New(ctx)
	if err != nil {
		return nil, err
	}
	tracing := sdktrace.NewTracerProvider(sdktrace.WithBatcher(spans), sdktrace.WithResource(res))
	metering := sdkmetric.NewMeterProvider(sdkmetric.WithReader(sdkmetric.NewPeriodicReader(points)), sdkmetric.WithResource(res))
	logging := sdklog.NewLoggerProvider(sdklog.WithProcessor(sdklog.NewBatchProcessor(records)), sdklog.WithResource(res))
	otel.SetTracerProvider(tracing)
	otel.SetMeterProvider(metering)
	global.SetLoggerProvider(logging)
	otel.SetTextMapPropagator(propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{}))
	return func(ctx context.Context) error {
		return errors.Join(tracing.Shutdown(ctx), metering.Shutdown(ctx), logging.Shutdown(ctx))
	}, nil
}
