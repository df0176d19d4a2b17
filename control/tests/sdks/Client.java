// The calls of calls.json through the Java SDK.
//
// usage: java Client.java CALLS.json    (prints a line of JSON per call: what the SDK gave back)

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import io.dapr.client.DaprClient;
import io.dapr.client.DaprClientBuilder;
import io.dapr.client.DaprHttp.HttpMethods;
import io.dapr.client.domain.HttpExtension;
import io.dapr.client.domain.InvokeMethodRequest;
import io.dapr.exceptions.DaprException;
import io.dapr.utils.TypeRef;
import java.io.File;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Base64;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

public class Client {
  private static final ObjectMapper JSON = new ObjectMapper();

  public static void main(String[] arguments) throws Exception {
    try (DaprClient client = new DaprClientBuilder().build()) {
      client.waitForSidecar(10_000).block();
      for (JsonNode call : JSON.readTree(new File(arguments[0]))) {
        System.out.println(JSON.writeValueAsString(answer(client, call)));
      }
    }
    // The SDK's threads would keep the process.
    System.exit(0);
  }

  private static Map<String, Object> answer(DaprClient client, JsonNode call) {
    int status = 200;
    byte[] body;
    try {
      body = client.invokeMethod(request(call), TypeRef.BYTE_ARRAY).block();
    } catch (DaprException e) {
      status = e.getHttpStatusCode();
      body = e.getPayload();
    }
    Map<String, Object> row = new HashMap<>();
    row.put("name", call.get("name").asText());
    row.put("status", status);
    row.put("body", Base64.getEncoder().encodeToString(body == null ? new byte[0] : body));
    return row;
  }

  private static InvokeMethodRequest request(JsonNode call) {
    InvokeMethodRequest request =
        new InvokeMethodRequest(call.get("app").asText(), call.get("method").asText());
    Map<String, List<String>> query = new HashMap<>();
    for (JsonNode pair : call.path("query")) {
      query.computeIfAbsent(pair.get(0).asText(), key -> new ArrayList<>()).add(pair.get(1).asText());
    }
    if (call.has("contentType")) {
      request.setContentType(call.get("contentType").asText());
    }
    HttpMethods verb = HttpMethods.valueOf(call.get("verb").asText());
    request.setHttpExtension(new HttpExtension(verb, query, Map.of()));
    if (call.path("allBytes").asBoolean()) {
      byte[] all = new byte[256];
      for (int index = 0; index < all.length; index++) {
        all[index] = (byte) index;
      }
      request.setBody(all);
    } else if (call.has("text")) {
      request.setBody(call.get("text").asText().getBytes(StandardCharsets.UTF_8));
    }
    return request;
  }
}
